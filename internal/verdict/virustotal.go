package verdict

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	vt "github.com/VirusTotal/vt-go"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// VirusTotal looks hashes up with the user's own key. The public API must not
// be used in business workflows; bring a key that may.
type VirusTotal struct {
	client  *vt.Client
	timeout time.Duration
}

// NewVirusTotal makes a source. endpoint replaces the service's address when it
// is not empty; it is for stand-ins.
func NewVirusTotal(key, endpoint string) (*VirusTotal, error) {
	const timeout = 8 * time.Second // vt-go takes no context: the HTTP client carries the deadline
	t := &statusTransport{base: http.DefaultTransport}
	if endpoint != "" {
		to, err := url.Parse(endpoint)
		if err != nil {
			return nil, fmt.Errorf("virustotal endpoint: %w", err)
		}
		t.to = to
	}
	return &VirusTotal{vt.NewClient(key, vt.WithHTTPClient(&http.Client{Transport: t, Timeout: timeout})), timeout}, nil
}

// statusTransport turns a status that vt-go would not look at into an error
// that says what it was, and redirects to a stand-in.
type statusTransport struct {
	base http.RoundTripper
	to   *url.URL
}

type statusError struct {
	code  int
	after string
}

func (e statusError) Error() string {
	if e.after != "" {
		return fmt.Sprintf("HTTP %d, retry after %s s", e.code, e.after)
	}
	return fmt.Sprintf("HTTP %d", e.code)
}

func (t *statusTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Del("Accept-Encoding") // the transport asks for gzip and undoes it, so that the limit is of what is decoded
	if t.to != nil {
		r.URL.Scheme, r.URL.Host, r.Host = t.to.Scheme, t.to.Host, t.to.Host
	}
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	// 404 comes with a JSON error that vt-go understands; the rest may be empty or HTML.
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		resp.Body.Close()
		return nil, statusError{resp.StatusCode, resp.Header.Get("Retry-After")}
	}
	resp.Body = &limitedBody{resp.Body, maxReply}
	return resp, nil
}

// maxReply bounds a reply, in bytes: a report has some hundred kilobytes.
const maxReply = 8 << 20

// limitedBody fails when more is read than is left.
type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the reply is larger than %d bytes", maxReply)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// Name of the source.
func (*VirusTotal) Name() string { return "VirusTotal" }

// Lookup a hash. A file that was never analysed is unknown, not clean.
func (v *VirusTotal) Lookup(ctx context.Context, sum string) (cases.Verdict, error) {
	if !sensorapi.IsSHA256(sum) { // it becomes part of a URL
		return cases.Verdict{}, fmt.Errorf("%q is no SHA-256", sum)
	}
	type result struct {
		v   cases.Verdict
		err error
	}
	got := make(chan result, 1)
	go func() {
		out, err := v.lookup(sum)
		got <- result{out, err}
	}()
	select {
	case a := <-got:
		return a.v, a.err
	case <-ctx.Done():
		return cases.Verdict{}, ctx.Err()
	}
}

func (v *VirusTotal) lookup(sum string) (cases.Verdict, error) {
	file, err := v.client.GetObject(vt.URL("files/%s", sum))
	var api vt.Error
	var status statusError
	switch {
	case errors.As(err, &api) && api.Code == "NotFoundError":
		return cases.Verdict{}, ErrUnknown
	case errors.As(err, &status):
		return cases.Verdict{}, status // without the URL around it
	case err != nil:
		return cases.Verdict{}, err
	}
	if !strings.EqualFold(file.ID(), sum) {
		return cases.Verdict{}, fmt.Errorf("the report is about another file, %q", notify.Limit(file.ID(), 80))
	}
	stats, err := statistics(file)
	if err != nil {
		return cases.Verdict{}, err
	}
	total := stats["malicious"] + stats["suspicious"] + stats["undetected"] + stats["harmless"]
	if total == 0 {
		return cases.Verdict{}, ErrUnknown // not analysed: no statement at all
	}
	out := cases.Verdict{Level: cases.Unknown, Link: "https://www.virustotal.com/gui/file/" + sum, Label: fmt.Sprintf("%d/%d engines", stats["malicious"], total)}
	if label, err := file.GetString("popular_threat_classification.suggested_threat_label"); err == nil && label != "" {
		out.Label += ", " + label
	}
	switch {
	case stats["malicious"] >= 3: // one or two engines are often wrong
		out.Level = cases.Malicious
	case stats["malicious"]+stats["suspicious"] > 0:
		out.Level = cases.Suspicious
	}
	return out, nil
}

// maxEngines bounds a count: there are about a hundred engines.
const maxEngines = 100_000

// statistics returns how many engines say what. A count that is not there is 0; one that
// cannot be read is an error, as it could be the one that matters.
func statistics(file *vt.Object) (map[string]int64, error) {
	out := map[string]int64{}
	for _, name := range []string{"malicious", "suspicious", "undetected", "harmless"} {
		value, err := file.Get("last_analysis_stats." + name)
		if err != nil || value == nil {
			continue
		}
		number, ok := value.(json.Number)
		if !ok {
			return nil, fmt.Errorf("last_analysis_stats.%s is not a number", name)
		}
		n, err := number.Float64() // 60.0 is a number as well
		if err != nil || n < 0 || n > maxEngines || n != math.Trunc(n) {
			return nil, fmt.Errorf("last_analysis_stats.%s: %q is no count", name, notify.Limit(number.String(), 40))
		}
		out[name] = int64(n)
	}
	return out, nil
}
