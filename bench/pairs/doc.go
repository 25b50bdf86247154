// Pairs times whole commands against each other, from just before fork and
// exec to the end of wait, and prints how many times longer the others take
// than the first one.
//
//	pairs [flags] COMMAND COMMAND...
//
// Every COMMAND is one string, split into words as a shell does it: blanks
// separate, ' and " quote, \ escapes. Leading NAME=VALUE words set environment
// variables. A first word that ends in a colon is the command's label:
//
//	pairs -n 500 'uvm: bin/uvm run -m 32M hello.hvt' 'nogc: GOGC=off bin/uvm run -m 32M hello.hvt'
//
// Nothing else of a shell is there: no variables, no pipes. stdin and stdout
// are /dev/null. A command that does not exit with status 0 ends the
// measurement, and its stderr is shown.
//
// One round runs every command once, in an order that is shuffled anew for
// each round (with a fixed seed), so that what disturbs the machine disturbs
// all commands alike. The ratio is the median over the rounds of each round's
// own ratio; its interval holds 95 % of the medians of 2000 resamplings
// (percentile bootstrap; Efron and Tibshirani, An Introduction to the
// Bootstrap, chapter 13).
//
// Where the pages of a program's file lie in the page cache, and in pieces of which size, is worth
// some percent of a short run, and stays so as long as the file is there. With -fresh 25 each
// program is copied anew every 25 rounds, so that luck changes sides.
package main
