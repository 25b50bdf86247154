package metrics

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var update = flag.Bool("update", false, "write the files that tests compare with")

const document = "../docs/metrics.md"

// Between these lines of the document stands the table.
const tableBegin, tableEnd = "<!-- table: go test ./metrics -update -->\n", "<!-- end of table -->\n"

// table is all families as Markdown.
func table() string {
	var b strings.Builder
	b.WriteString("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n")
	for i := range families {
		f := &families[i]
		unit := ""
		for _, u := range []string{"bytes", "seconds"} {
			if strings.HasSuffix(strings.TrimSuffix(f.name, "_total"), "_"+u) {
				unit = u
			}
		}
		labels := map[group]string{ofVM: "VM", ofSocket: "`vm`, `name`"}[f.of]
		for _, l := range f.labels {
			if labels != "" {
				labels += ", "
			}
			labels += "`" + l + "`"
		}
		b.WriteString("| `" + f.name + "` | " + f.kind + " | " + unit + " | " + labels + " | " + f.help + " |\n")
	}
	return b.String()
}

// TestDocument compares the document's table with the families, and these with what the Collector describes.
func TestDocument(t *testing.T) {
	data, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	before, rest, ok1 := strings.Cut(text, tableBegin)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no table between %q and %q", document, tableBegin, tableEnd)
	}
	if want := table(); old != want {
		if *update {
			text = before + tableBegin + want + tableEnd + after
			if err := os.WriteFile(document, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		} else {
			t.Errorf("the table of %s is not that of the metrics; go test ./metrics -update writes it:\n%s", document, want)
		}
	}
	ch := make(chan *prometheus.Desc, 2*numFamilies)
	NewCollector(fixed()).Describe(ch)
	close(ch)
	described := map[string]bool{}
	for d := range ch {
		for i := range families {
			if strings.Contains(d.String(), `fqName: "`+families[i].name+`"`) {
				described[families[i].name] = true
			}
		}
	}
	if len(described) != numFamilies {
		t.Errorf("Describe gives %d of %d metrics", len(described), numFamilies)
	}
}
