// Command kernels turns the MATRIX lines that the sensor's tests print into one
// table: kernel and tiers by route. It fails when a line is missing.
//
//	kernels [--write FILE] LOG...
//
// With --write the table replaces what lies between the markers in FILE.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

const begin, end = "<!-- begin matrix -->\n", "<!-- end matrix -->\n"

func main() {
	write := flag.String("write", "", "replace the table in this file")
	flag.Parse()
	table, err := tableOf(flag.Args())
	if err == nil {
		fmt.Print(table)
		if *write != "" {
			err = replace(*write, table)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func tableOf(logs []string) (string, error) {
	var columns, rows []string
	cells := map[[2]string]string{}
	for _, log := range logs {
		f, err := os.Open(log)
		if err != nil {
			return "", err
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			_, line, found := strings.Cut(lines.Text(), "MATRIX\t")
			parts := strings.Split(line, "\t") // kernel, set of tiers, row, cell
			if !found || len(parts) != 4 {
				continue
			}
			column, row := parts[0]+", "+parts[1], parts[2]
			if !slices.Contains(columns, column) {
				columns = append(columns, column)
			}
			if !slices.Contains(rows, row) {
				rows = append(rows, row)
			}
			cells[[2]string{column, row}] = parts[3]
		}
	}
	if len(columns) == 0 {
		return "", fmt.Errorf("no MATRIX line in %q", logs)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s |", row)
		for _, column := range columns {
			cell, ok := cells[[2]string{column, row}]
			if !ok {
				return "", fmt.Errorf("%s: nothing about %q", column, row)
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}

func replace(file, table string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(body), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%q has no markers for the table", file)
	}
	return os.WriteFile(file, []byte(before+begin+table+end+after), 0o644)
}
