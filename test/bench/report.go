package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: two figures, and the target that the first is held against.
type row struct {
	what       string
	ours, ref  float64
	unit       string
	target     float64 // 0 for none
	byRatio    bool    // the target is of ours/ref
	noFraction bool
}

func report(w io.Writer, discovery, known result, waiting *idle, programs [2]program) error {
	seconds := func(d [2][]time.Duration, unit time.Duration) (float64, float64) {
		return float64(median(d[0])) / float64(unit), float64(median(d[1])) / float64(unit)
	}
	var rows []row
	for _, s := range []struct {
		name               string
		r                  result
		trips, connections float64
		requests, wall     float64
	}{
		{"token discovery", discovery, 4.6, 2, 3, 0.6},
		{"CA known", known, 3.5, 1, 2, 0.6},
	} {
		wall, refWall := seconds(s.r.join, time.Millisecond)
		trips, refTrips := seconds(s.r.delayed, delay)
		process, refProcess := seconds(s.r.process, time.Millisecond)
		rows = append(rows,
			row{what: s.name + ": identity on disk, loopback", ours: wall, ref: refWall, unit: "ms", target: s.wall, byRatio: true},
			row{what: s.name + ": whole process, loopback", ours: process, ref: refProcess, unit: "ms"},
			row{what: s.name + ": round trips", ours: trips, ref: refTrips, target: s.trips},
			row{what: s.name + ": requests", ours: median(s.r.requests[0]), ref: median(s.r.requests[1]), target: s.requests, noFraction: true},
			row{what: s.name + ": connections", ours: median(s.r.connections[0]), ref: median(s.r.connections[1]), target: s.connections, noFraction: true},
			row{what: s.name + ": resident memory", ours: median(s.r.memory[0]), ref: median(s.r.memory[1]), unit: "MB", target: 16},
		)
	}
	if waiting.memory[0] != 0 {
		rows = append(rows,
			row{what: "agent, against the kubelet: resident memory while it waits", ours: waiting.memory[0], ref: waiting.memory[1], unit: "MB", target: 18},
			row{what: "agent, against the kubelet: processor time a day while it waits", ours: waiting.cpu[0], ref: waiting.cpu[1], unit: "s", target: 1},
		)
	}
	rows = append(rows, row{what: "binary", ours: programs[0].size(), ref: programs[1].size(), unit: "MB", target: 18})
	return printRows(w, rows)
}

func printRows(w io.Writer, rows []row) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "median of\tnodejoin\treference\tratio\ttarget\t\t")
	for _, r := range rows {
		reference, ratio := "", ""
		if r.ref != 0 { // it can run here
			reference, ratio = r.format(r.ref), fmt.Sprintf("%.2f", r.ours/r.ref)
		}
		target, verdict := "", ""
		if r.target != 0 {
			value := r.ours
			target = r.format(r.target)
			if r.byRatio {
				value, target = r.ours/r.ref, fmt.Sprintf("ratio %.2f", r.target)
			}
			if verdict = "met"; value > r.target {
				verdict = "missed"
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", r.what, r.format(r.ours), reference, ratio, target, verdict)
	}
	return table.Flush()
}

// format writes a figure of the row.
func (r *row) format(value float64) string {
	format := "%.1f %s"
	if r.noFraction {
		format = "%.0f %s"
	}
	return strings.TrimSpace(fmt.Sprintf(format, value, r.unit))
}
