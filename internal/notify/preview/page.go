package preview

import (
	"encoding/json"
	"fmt"
	"html/template"
	"io"
)

// Shown is one message of a page.
type Shown struct {
	Title  string
	Blocks json.RawMessage
	Thread bool // a reply
}

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title><style>{{.Style}}</style></head><body>
{{range .Messages}}<article{{if .Thread}} class="thread"{{end}}><p class="context">{{.Title}}</p>{{.Body}}</article>
{{end}}</body></html>
`))

// Write writes the messages as one HTML page.
func Write(w io.Writer, title string, messages []Shown) error {
	type rendered struct {
		Shown
		Body template.HTML
	}
	var out []rendered
	for _, m := range messages {
		body, err := SlackBlocks(m.Blocks, "", nil)
		if err != nil {
			return fmt.Errorf("render %q: %w", m.Title, err)
		}
		out = append(out, rendered{m, body})
	}
	return page.Execute(w, map[string]any{"Title": title, "Style": template.CSS(Style), "Messages": out})
}
