package lab

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Reader reads a file that people write as YAML, such as a drill or an
// inventory. It gathers everything that is wrong with it, each with its place,
// so that who wrote it learns all at once.
type Reader struct {
	file     string
	lines    []string
	problems Problems
}

// NewReader makes a reader of a file with that text.
func NewReader(file string, src []byte) *Reader {
	return &Reader{file: file, lines: strings.Split(string(src), "\n")}
}

// Err is a Problems with all that was wrong so far, in order of line; nil when
// nothing was.
func (r *Reader) Err() error {
	if len(r.problems) == 0 {
		return nil
	}
	sort.SliceStable(r.problems, func(i, j int) bool { return r.problems[i].Line < r.problems[j].Line })
	return r.problems
}

// Bad adds a problem with a node; nil is the beginning of the file.
func (r *Reader) Bad(n ast.Node, format string, args ...any) {
	line, col := 1, 1
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if n != nil {
		if t := n.GetToken(); t != nil && t.Position != nil {
			line, col = t.Position.Line, t.Position.Column
		}
	}
	r.At(line, col, fmt.Sprintf(format, args...))
}

// At adds a problem with a place, both counted from 1.
func (r *Reader) At(line, col int, what string) {
	source := ""
	if line >= 1 && line <= len(r.lines) {
		source = strings.ReplaceAll(r.lines[line-1], "\t", " ")
	}
	r.problems = append(r.problems, Problem{File: r.file, Line: line, Col: col, What: what, Source: source})
}

// Root parses the text, which is to hold one document, called what; nil when it
// does not. Keys that are given twice are left to who reads them.
func (r *Reader) Root(what string) (root ast.Node) {
	defer func() { // the YAML parser has panicked on hostile input before
		if p := recover(); p != nil {
			r.At(1, 1, fmt.Sprintf("no valid YAML: %v", p))
			root = nil
		}
	}()
	f, err := parser.ParseBytes([]byte(strings.Join(r.lines, "\n")), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		line, col, msg := 1, 1, err.Error()
		var e yaml.Error
		if errors.As(err, &e) {
			msg = e.GetMessage()
			if t := e.GetToken(); t != nil && t.Position != nil {
				line, col = t.Position.Line, t.Position.Column
			}
		}
		r.At(line, col, "no valid YAML: "+msg)
		return nil
	}
	var docs []ast.Node
	for _, d := range f.Docs {
		if d.Body != nil && d.Body.Type() != ast.CommentType {
			docs = append(docs, d.Body)
		}
	}
	if len(docs) != 1 {
		r.At(1, 1, fmt.Sprintf("expected one %s, found %d documents", what, len(docs)))
		return nil
	}
	return docs[0]
}

// Pairs returns the entries of a mapping. When n is none it is not ok, and says
// is the problem.
func (r *Reader) Pairs(n ast.Node, says string) (entries []*ast.MappingValueNode, ok bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	r.Bad(n, "%s", says)
	return nil, false
}

// Items is Pairs for a list.
func (r *Reader) Items(n ast.Node, says string) (items []ast.Node, ok bool) {
	if s, ok := n.(*ast.SequenceNode); ok {
		return s.Values, true
	}
	r.Bad(n, "%s", says)
	return nil, false
}

// Scalar returns a single value as it is written; when n is none it is a
// problem, and not ok.
func (r *Reader) Scalar(n ast.Node) (text string, ok bool) {
	switch n := n.(type) {
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.StringNode:
		return n.Value, true
	case *ast.NullNode, *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode, *ast.AliasNode, *ast.AnchorNode, *ast.TagNode:
		r.Bad(n, "expected a single value")
		return "", false
	}
	return n.GetToken().Value, true
}

// KeyOf is the key of an entry as it is written.
func KeyOf(kv *ast.MappingValueNode) string {
	if t := kv.Key.GetToken(); t != nil {
		return t.Value
	}
	return kv.Key.String()
}
