package main

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what Grafana's dashboard JSON has to have, of version 10.4 and later.
type dashboard struct {
	Title, UID    string
	SchemaVersion int
	Panels        []dashPanel
	Templating    struct {
		List []struct {
			Name, Type string
			Query      any
			Datasource dashSource
		}
	}
	Time struct{ From, To string }
}

type dashSource struct{ Type, UID string }

type dashPanel struct {
	ID          int
	Type, Title string
	GridPos     struct{ H, W, X, Y int }
	Datasource  dashSource
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct {
		RefID, Expr, LegendFormat string
		Datasource                dashSource
	}
}

func readDashboard(t testing.TB) (d dashboard) {
	t.Helper()
	data, err := os.ReadFile("../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// queries are all of the dashboard's, with values for its variables.
func (d *dashboard) queries() (all []string) {
	values := strings.NewReplacer("$__rate_interval", "5s", "$__range", "10m", "$instance", ".*", "$name", ".*")
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all = append(all, values.Replace(target.Expr))
		}
	}
	return all
}

var metricName = regexp.MustCompile(`\buvm_[a-z_]+`)

// documented are the metrics of docs/metrics.md, which package metrics compares with those that there are.
func documented(t testing.TB) (names []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(uvm_[a-z_]+)` \\| (counter|gauge|histogram)").FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
		if m[2] == "histogram" {
			names = append(names, m[1]+"_bucket", m[1]+"_count", m[1]+"_sum")
		}
	}
	return names
}

func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 39 || d.Time.From == "" || len(d.Panels) < 10 {
		t.Errorf("the dashboard has title %q, uid %q, schemaVersion %d, %d panels", d.Title, d.UID, d.SchemaVersion, len(d.Panels))
	}
	variables := []string{"__rate_interval", "__range"}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Type != "datasource" && v.Datasource.UID != "${datasource}" {
			t.Errorf("variable %q has the data source %+v", v.Name, v.Datasource)
		}
	}
	if len(d.Templating.List) == 0 || d.Templating.List[0].Type != "datasource" || d.Templating.List[0].Query != "prometheus" {
		t.Error("the first variable does not choose a Prometheus")
	}
	var cells [24][]int // in each column the rows that are taken
	ids, names := map[int]bool{}, documented(t)
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %d %q: no title, or an ID that is taken", p.ID, p.Title)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.H < 1 || g.W < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > len(cells) {
			t.Errorf("panel %q lies outside the grid: %+v", p.Title, g)
			continue
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if slices.Contains(cells[x], y) {
					t.Errorf("panel %q lies on another one: %+v", p.Title, g)
				}
				cells[x] = append(cells[x], y)
			}
		}
		if p.Type == "row" {
			continue
		}
		if !slices.Contains([]string{"timeseries", "stat", "bargauge"}, p.Type) || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: type %q, unit %q, %d queries", p.Title, p.Type, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] || q.RefID == "" || q.LegendFormat == "" || q.Datasource != (dashSource{"prometheus", "${datasource}"}) || p.Datasource != q.Datasource {
				t.Errorf("panel %q: query %+v", p.Title, q)
			}
			refs[q.RefID] = true
			for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if !slices.Contains(variables, m[1]) {
					t.Errorf("panel %q: no variable %q", p.Title, m[1])
				}
			}
			for _, name := range metricName.FindAllString(q.Expr, -1) {
				if !slices.Contains(names, name) {
					t.Errorf("panel %q: no metric %q", p.Title, name)
				}
			}
		}
	}
}
