package preview_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"image"
	_ "image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/notify/preview"
	"github.com/contraband-dev/contraband/internal/notify/slack"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

var pictures = flag.String("pictures", "", "directory to which the rendering of each state is written as PNG")

func page(t *testing.T, s samplecases.State, thread bool) []byte {
	t.Helper()
	m := casetext.Message(s.Case, func(id string) string { return "https://casebook.example/cases/" + id })
	blocks, err := json.Marshal(slack.Blocks(m, "<!subteam^S0|payments-oncall>", true))
	if err != nil {
		t.Fatal(err)
	}
	shown := []preview.Shown{{Title: "Contraband in #payments-oncall", Blocks: blocks}}
	if thread {
		details, err := json.Marshal(slack.Details(m))
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, preview.Shown{Title: "in the thread", Blocks: details, Thread: true})
	}
	var b bytes.Buffer
	if err := preview.Write(&b, s.Name, shown); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEachStateRenders(t *testing.T) {
	for _, s := range samplecases.States() {
		text := string(page(t, s, true))
		for _, want := range []string{"kdevtmpfsi", "Open case", "Process tree", "payments-oncall"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the page lacks %q", s.Name, want)
			}
		}
		if strings.Contains(text, "!date^") || strings.Contains(text, "*Done*") {
			t.Errorf("%s: markup is shown as it is", s.Name)
		}
	}
}

func TestMarkupOfTheMessageCannotBecomeHTML(t *testing.T) {
	blocks := json.RawMessage(`[{"type":"section","text":{"type":"mrkdwn","text":"<script>alert(1)</script> &lt;img src=x onerror=y&gt; <javascript:x|y> \u0060</code><b>\u0060 *<i>*"}}]`)
	out, err := preview.SlackBlocks(blocks, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "<img", "<i>", `href="javascript`, "</code><b>", `href="script`} {
		if strings.Contains(string(out), bad) {
			t.Errorf("the rendering has %q: %s", bad, out)
		}
	}
}

// TestPicturesOfEachState needs a browser, which make deps-browser installs. The four
// pictures in docs/images are of these.
func TestPicturesOfEachState(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium: make deps-browser installs it")
	}
	dir := *pictures
	if dir == "" {
		dir = t.TempDir()
	}
	states := samplecases.States()
	if *pictures == "" {
		states = states[3:4] // one suffices to see that it works; all take a minute
	}
	for _, s := range states {
		html, png := filepath.Join(t.TempDir(), s.Name+".html"), filepath.Join(dir, s.Name+".png")
		if err := os.WriteFile(html, page(t, s, false), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", //nolint:gosec // a test
			"--user-data-dir="+t.TempDir(), "--screenshot="+png, "--window-size=720,680", "file://"+html)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", s.Name, err, out)
		}
		raw, err := os.ReadFile(png)
		if err != nil {
			t.Fatal(err)
		}
		if img, _, err := image.DecodeConfig(bytes.NewReader(raw)); err != nil || img.Width != 720 {
			t.Errorf("%s: %+v, %v", s.Name, img, err)
		}
	}
}
