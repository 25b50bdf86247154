package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

func completionMain(args []string) int {
	f := newFlags("completion")
	if status := parse(f, "completion", args); status >= 0 {
		return status
	}
	if f.NArg() != 1 {
		return fail(exitUsage, "want one shell: uvm completion bash|zsh|fish")
	}
	var script string
	switch f.Arg(0) {
	case "bash":
		script = bashCompletion()
	case "zsh":
		script = zshCompletion()
	case "fish":
		script = fishCompletion()
	default:
		return fail(exitUsage, "unknown shell %q (bash, zsh or fish)", f.Arg(0))
	}
	if _, err := os.Stdout.WriteString(script); err != nil {
		return fail(exitHost, "%v", err)
	}
	return exitOK
}

// commandFlags lists the long flags of a command.
func commandFlags(name string) []string {
	var flags []string
	switch name {
	case "run":
		runFlags(new(settings)).VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name) })
	case "gdb":
		gdbFlags(new(settings)).VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name) })
	case "ps", "stop", "pause", "resume", "wait", "logs", "stats", "dump":
		vmFlags(name).VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name) })
	case "trace":
		traceFlags(new(traceOptions), new(settings)).VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name) })
	case "top": // of another program, as the next one
		flags = []string{"--interval", "--sort", "--once", "--run-dir"}
	case "boot-report":
		flags = []string{"--output", "--json"}
	case "net":
		flags = []string{"--netns"}
	case "inspect", "doctor":
		flags = []string{"--json"}
	}
	return append(flags, "--help")
}

func commandNames() string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return strings.Join(names, " ")
}

// The scripts complete command names first, then the command's flags, then
// files; after -- the words are the guest's and nothing is offered.

func bashCompletion() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# bash completion for uvm: source <(uvm completion bash)
_uvm() {
    local cur=${COMP_WORDS[COMP_CWORD]} i
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "%s" -- "$cur"))
        return
    fi
    for ((i = 2; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] && return
    done
    local flags=
    case ${COMP_WORDS[1]} in
`, commandNames())
	for _, c := range commands() {
		fmt.Fprintf(&b, "    %s) flags=\"%s\" ;;\n", c.name, strings.Join(commandFlags(c.name), " "))
	}
	b.WriteString(`    esac
    if [[ ${COMP_WORDS[1]} == completion && $cur != -* ]]; then
        COMPREPLY=($(compgen -W "bash zsh fish" -- "$cur"))
    elif [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$cur"))
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -o filenames -F _uvm uvm
`)
	return b.String()
}

func zshCompletion() string {
	var b strings.Builder
	b.WriteString("#compdef uvm\n# zsh completion for uvm: source <(uvm completion zsh)\n_uvm() {\n    if ((CURRENT == 2)); then\n        local -a names=(\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "            '%s:%s'\n", c.name, c.help)
	}
	b.WriteString("        )\n        _describe command names\n        return\n    fi\n    (( ${words[(I)--]} )) && return\n    case $words[2] in\n")
	for _, c := range commands() {
		operands := "_files"
		if c.name == "completion" {
			operands = "compadd bash zsh fish"
		}
		fmt.Fprintf(&b, "    %s) if [[ $PREFIX == -* ]]; then compadd -- %s; else %s; fi ;;\n",
			c.name, strings.Join(commandFlags(c.name), " "), operands)
	}
	b.WriteString("    esac\n}\ncompdef _uvm uvm\n")
	return b.String()
}

func fishCompletion() string {
	var b strings.Builder
	b.WriteString("# fish completion for uvm: uvm completion fish | source\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "complete -c uvm -n __fish_use_subcommand -f -a %s -d '%s'\n", c.name, c.help)
		for _, f := range commandFlags(c.name) {
			fmt.Fprintf(&b, "complete -c uvm -n '__fish_seen_subcommand_from %s' -l %s\n", c.name, strings.TrimPrefix(f, "--"))
		}
	}
	b.WriteString("complete -c uvm -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n")
	return b.String()
}
