package verdict

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	vt "github.com/VirusTotal/vt-go"

	"github.com/contraband-dev/contraband/internal/cases"
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
	if t.to != nil {
		r = r.Clone(r.Context())
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
	return resp, nil
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
	stats := map[string]int64{}
	var total int64
	for _, name := range []string{"malicious", "suspicious", "undetected", "harmless"} {
		n, err := file.GetInt64("last_analysis_stats." + name)
		if err != nil {
			return cases.Verdict{}, ErrUnknown // not analysed: no statement at all
		}
		stats[name] = n
		total += n
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
