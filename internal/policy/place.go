package policy

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// place is where something stands in the policy file.
type place struct {
	what  string     // "rule 1 (\"known malware\")"
	node  *yaml.Node // nil: not known
	lines []string   // of the file
}

// key returns the place of a key's value; the place itself where the key is absent.
func (p place) key(name string) place {
	if p.node == nil || p.node.Kind != yaml.MappingNode {
		return p
	}
	for i := 0; i+1 < len(p.node.Content); i += 2 {
		if p.node.Content[i].Value == name {
			p.node = p.node.Content[i+1]
			return p
		}
	}
	return p
}

// named returns the place with what it is called in messages.
func (p place) named(what string) place {
	p.what = what
	return p
}

// item returns the place of an item of a list.
func (p place) item(i int, what string) place {
	p.what = what
	if p.node == nil || p.node.Kind != yaml.SequenceNode {
		p.node = nil
		return p
	}
	items := slices.DeleteFunc(slices.Clone(p.node.Content), isNull) // the decoder skips them
	p.node = nil
	if i < len(items) {
		p.node = items[i]
	}
	return p
}

func isNull(n *yaml.Node) bool { return n.Tag == "!!null" }

// refuseNull reports entries of a list that say nothing.
func (k *checker) refuseNull(p place) {
	if p.node == nil || p.node.Kind != yaml.SequenceNode {
		return
	}
	for _, n := range p.node.Content {
		if isNull(n) {
			k.wrong(place{node: n}, "an entry of a list that says nothing")
		}
	}
}

// text returns a problem with its place: that of the node where the problem has no line.
func (p place) text(pr problem) string {
	text := pr.text
	if p.what != "" {
		text = p.what + ": " + text
	}
	if p.node == nil {
		return text
	}
	line, column := p.node.Line, p.node.Column
	if pr.line > 0 {
		line, column = p.within(pr)
	}
	if column == 0 {
		return fmt.Sprintf("line %d: %s", line, text)
	}
	return fmt.Sprintf("line %d, column %d: %s", line, column, text)
}

// within returns where a position of an expression stands in the file; column 0: not known,
// because the text is folded.
func (p place) within(pr problem) (line, column int) {
	n := p.node
	switch {
	case n.Style&yaml.LiteralStyle != 0:
		line = n.Line + pr.line
		first := p.lines[min(n.Line, len(p.lines)-1)] // the block's own first line
		return line, len(first) - len(strings.TrimLeft(first, " ")) + pr.column + 1
	case n.Style&yaml.FoldedStyle != 0 || pr.line > 1:
		return n.Line, 0
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		return n.Line, n.Column + 1 + pr.column
	}
	return n.Line, n.Column + pr.column
}
