package output

import (
	"bytes"
	"io"
	"strings"
	"text/tabwriter"
)

// maxCell is the most characters of one cell of a table, so that one long value does not push the rest out of sight.
const maxCell = 60

// maxFact is the most characters of one value of a sheet.
const maxFact = 4096

// A Grid is a table with a header. Its cells are cleaned.
type Grid struct {
	header []string
	rows   [][]string
	warn   []bool
}

// NewGrid makes a table with these columns.
func NewGrid(columns ...string) *Grid { return &Grid{header: columns} }

// Row adds a row. A row to warn of is shown in colour where there are colours.
func (g *Grid) Row(warn bool, cells ...string) {
	clean := make([]string, len(cells))
	for i, c := range cells {
		if clean[i] = Clean(c, maxCell); clean[i] == "" {
			clean[i] = "-"
		}
	}
	g.rows = append(g.rows, clean)
	g.warn = append(g.warn, warn)
}

// Write writes the table, in colour if asked.
func (g *Grid) Write(w io.Writer, colour bool) error {
	lines, err := align(append([][]string{g.header}, g.rows...), 2)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for i, l := range lines {
		// Colour goes on after the columns are aligned, since it has no width.
		switch {
		case colour && i == 0:
			l = "\x1b[1m" + l + "\x1b[0m"
		case colour && g.warn[i-1]:
			l = "\x1b[33m" + l + "\x1b[0m"
		}
		b.WriteString(l + "\n")
	}
	_, err = w.Write(b.Bytes())
	return err
}

// align sets rows of clean cells in columns, gap spaces apart, without blanks at the ends of lines.
func align(rows [][]string, gap int) ([]string, error) {
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, gap, ' ', 0)
	for _, r := range rows {
		if _, err := io.WriteString(tw, strings.Join(r, "\t")+"\n"); err != nil {
			return nil, err
		}
	}
	if err := tw.Flush(); err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return lines, nil
}

// A Sheet is a list of named facts under headings. Names and values are cleaned.
type Sheet struct{ rows [][]string }

// Fact adds a fact. An empty value shows as -.
func (s *Sheet) Fact(name, value string) { s.add("", name, value) }

// Sub adds a fact under the last heading.
func (s *Sheet) Sub(name, value string) { s.add("  ", name, value) }

// Heading starts a group of facts, of which value says something in general; it may be empty.
func (s *Sheet) Heading(name, value string) {
	s.rows = append(s.rows, []string{Clean(name, maxCell) + ":", Clean(value, maxFact)})
}

func (s *Sheet) add(indent, name, value string) {
	if value == "" {
		value = "-"
	}
	s.rows = append(s.rows, []string{indent + Clean(name, maxCell) + ":", Clean(value, maxFact)})
}

// Write writes the sheet.
func (s *Sheet) Write(w io.Writer) error {
	lines, err := align(s.rows, 2)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}
