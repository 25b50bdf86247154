package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "pairs:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		rounds = flag.Int("n", 200, "`rounds`: each runs every command once")
		warm   = flag.Int("warmup", 5, "`rounds` before the first one that counts")
		seed   = flag.Uint64("seed", 1, "`seed` of the order within each round and of the bootstrap")
		fresh  = flag.Int("fresh", 0, "copy the programs anew every so many `rounds`; 0 = never")
		file   = flag.String("json", "", "write the report with all samples to `FILE` too; - is stdout, instead of the table")
	)
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(),
			"usage: pairs [flags] '[LABEL:] [NAME=VALUE...] PROGRAM [ARG...]' '...'...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() < 2 {
		flag.Usage()
		return errors.New("need at least two commands, each as one quoted argument")
	}
	if *rounds < 1 || *warm < 0 {
		return fmt.Errorf("-n %d -warmup %d: need at least 1 round and no negative warm-up", *rounds, *warm)
	}
	var cmds []command
	for _, arg := range flag.Args() {
		c, err := parseCommand(arg)
		if err != nil {
			return err
		}
		cmds = append(cmds, c)
	}
	samples, err := measure(cmds, *rounds, *warm, *fresh, *seed)
	if err != nil {
		return err
	}
	return report(summarize(cmds, samples, *seed), *rounds, *seed, *file)
}

// measure runs all commands warm + rounds times; samples[i][round] is of cmds[i].
func measure(cmds []command, rounds, warm, fresh int, seed uint64) ([][]sample, error) {
	sp, err := newSpawner()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pairs")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// vfork suspends the calling thread; let it be the one that waits, too.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	rng := rand.New(rand.NewPCG(seed, 1))
	samples := make([][]sample, len(cmds))
	for round := -warm; round < rounds; round++ {
		if fresh > 0 && (round+warm)%fresh == 0 {
			for _, i := range rng.Perm(len(cmds)) {
				if err := cmds[i].copyTo(filepath.Join(dir, fmt.Sprint(i))); err != nil {
					return nil, err
				}
			}
		}
		for _, i := range rng.Perm(len(cmds)) {
			s, err := sp.run(&cmds[i])
			if err != nil {
				return nil, err
			}
			if round >= 0 {
				samples[i] = append(samples[i], s)
			}
		}
	}
	return samples, nil
}

func report(res []result, rounds int, seed uint64, file string) error {
	if file == "-" {
		return printJSON(os.Stdout, res, rounds, seed)
	}
	if err := printText(os.Stdout, res, rounds); err != nil || file == "" {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(printJSON(f, res, rounds, seed), f.Close())
}
