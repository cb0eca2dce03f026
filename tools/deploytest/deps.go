// Package deploytest checks the files of deploy/. It renders the chart, runs the alert rules, and
// checks that all files use metrics and settings that exist.
package deploytest
