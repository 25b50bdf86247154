package kvm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestHeader compiles a program against the real <linux/kvm.h> and compares
// what it prints with every constant, size and offset of the package.
func TestHeader(t *testing.T) {
	const remedy = "install compiler and header: apt-get install gcc linux-libc-dev"
	var src strings.Builder
	src.WriteString("#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {\n")
	want := map[string]uint64{}
	late := map[string]bool{}
	// show prints the expression under the name, if ifdef is a macro.
	show := func(name, expr, ifdef string, value uint64) {
		if ifdef == "" {
			fmt.Fprintf(&src, "printf(\"%s=%%llu\\n\", (unsigned long long)(%s));\n", name, expr)
		} else {
			fmt.Fprintf(&src, "#ifdef %s\nprintf(\"%s=%%llu\\n\", (unsigned long long)(%s));\n#endif\n", ifdef, name, expr)
			late[name] = true
		}
		want[name] = value
	}
	for _, c := range abiConsts {
		ifdef := ""
		if lateConsts[c.c] {
			ifdef = c.c
		}
		show(c.c, c.c, ifdef, c.value)
	}
	show("syncRegs", "KVM_SYNC_X86_REGS", "", syncRegs)
	show("syncSregs", "KVM_SYNC_X86_SREGS", "", syncSregs)
	for _, s := range abiStructs {
		member, inRun := strings.CutPrefix(s.c, "run.")
		if s.whole {
			expr := "sizeof(" + s.c + ")"
			if inRun {
				expr = "sizeof(((struct kvm_run *)0)->" + member + ")"
			}
			show("sizeof "+s.c, expr, s.ifdef, uint64(s.size))
		}
		for _, f := range s.fields {
			name := f.c
			if name == "" {
				name = strings.ToLower(f.name)
			}
			expr := fmt.Sprintf("offsetof(%s, %s)", s.c, name)
			if inRun {
				expr = fmt.Sprintf("offsetof(struct kvm_run, %s.%s) - offsetof(struct kvm_run, io)", member, name)
			}
			show(s.c+"."+name, expr, s.ifdef, uint64(f.offset))
		}
	}
	src.WriteString("return 0;\n}\n")

	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Fatalf("%v; %s", err, remedy)
	}
	dir := t.TempDir()
	file, prog := filepath.Join(dir, "abi.c"), filepath.Join(dir, "abi")
	if err := os.WriteFile(file, []byte(src.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-o", prog, file).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v; %s\n%s", err, remedy, out)
	}
	out, err := exec.Command(prog).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		name, value, _ := strings.Cut(line, "=")
		w, ok := want[name]
		if !ok {
			t.Fatalf("the program printed %q; want a name from the tables", line)
		}
		if w := fmt.Sprint(w); value != w {
			t.Errorf("%s = %s; want %s, the package's", name, value, w)
		}
		delete(want, name)
	}
	for name := range want {
		if late[name] {
			t.Logf("the installed <linux/kvm.h> is too old to have %s", name)
		} else {
			t.Errorf("the program printed nothing for %s", name)
		}
	}
}
