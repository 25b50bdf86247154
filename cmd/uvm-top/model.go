package main

import (
	"fmt"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

// model is the state of the screen.
type model struct {
	sampler  *sampler
	interval time.Duration

	rows    []row
	at      time.Time
	err     error // ended it
	column  int   // to sort by
	reverse bool
	offset  int // of the first line that is shown
	height  int // of the terminal, 0 = not known yet
}

// sampled is what came of asking the VMs.
type sampled struct {
	rows []row
	at   time.Time
	err  error
}

// ask asks the VMs when the interval is over. One question at a time: a VM that is silent delays the next.
func (m model) ask() tea.Cmd {
	return tea.Tick(m.interval, func(time.Time) tea.Msg {
		rows, err := m.sampler.sample()
		return sampled{rows, time.Now(), err}
	})
}

// Init begins.
func (m model) Init() tea.Cmd {
	return func() tea.Msg {
		rows, err := m.sampler.sample()
		return sampled{rows, time.Now(), err}
	}
}

// Update takes a key, a size or a sample.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case sampled:
		if msg.err != nil {
			m.err = msg.err
			return m, tea.Quit
		}
		m.rows, m.at = msg.rows, msg.at
		m.scroll(0)
		return m, m.ask()
	case tea.WindowSizeMsg:
		m.height = msg.Height
		m.scroll(0)
	case tea.KeyMsg:
		switch key := msg.String(); key {
		case "q", "ctrl+c", "esc":
			return m, tea.Quit
		case "r":
			m.reverse = !m.reverse
		case "up":
			m.scroll(-1)
		case "down":
			m.scroll(1)
		case "pgup":
			m.scroll(-m.lines())
		case "pgdown":
			m.scroll(m.lines())
		case "home":
			m.scroll(-m.offset)
		default:
			for i, c := range columns {
				if c.key == key {
					m.column, m.reverse = i, false
				}
			}
		}
	}
	return m, nil
}

// lines is how many VMs there is room for, below three lines of head.
func (m *model) lines() int { return max(m.height-3, 1) }

func (m *model) scroll(by int) { m.offset = max(0, min(m.offset+by, len(m.rows)-m.lines())) }

// View draws the screen.
func (m model) View() string {
	if m.at.IsZero() {
		return "asking…"
	}
	running := 0
	var cpu float64
	for i := range m.rows {
		if m.rows[i].State == "running" {
			running++
		}
		cpu += m.rows[i].rates[0]
	}
	order := "most first"
	if m.reverse {
		order = "least first"
	}
	head := fmt.Sprintf("%s  %d VMs, %d running, %.1f %% CPU; by %s, %s; q ends, --help has all keys\n\n",
		m.at.Format(time.TimeOnly), len(m.rows), running, cpu*100, columns[m.column].name, order)
	return head + strings.TrimSuffix(m.table(m.offset, m.lines()), "\n")
}
