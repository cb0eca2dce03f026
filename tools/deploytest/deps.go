// Package deploytest checks what lies in deploy/: it renders the chart, runs
// the alert rules, and holds all of it to the metrics and settings that exist.
package deploytest
