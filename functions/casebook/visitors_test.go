package casebook

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
)

const audience = "/projects/1/locations/europe-west1/services/casebook"

// proxy signs as Identity-Aware Proxy does, and serves its keys where Google does.
type proxy struct {
	t   *testing.T
	key *ecdsa.PrivateKey
}

func (p proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != "/iap/verify/public_key-jwk" {
		p.t.Errorf("asked for %s", r.URL)
	}
	raw, err := p.key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return nil, err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	body, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kid": "k", "alg": "ES256", "kty": "EC", "crv": "P-256", "use": "sig", "x": b64(raw[1:33]), "y": b64(raw[33:]),
	}}})
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(string(body))), Header: http.Header{}}, err
}

func (p proxy) token(claims map[string]any) string {
	p.t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			p.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]string{"alg": "ES256", "typ": "JWT", "kid": "k"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

const caseID = "0123456789abcdef"

// newBook has one open case; its keys come from p.
func newBook(t *testing.T, p proxy) (*Function, error) {
	t.Helper()
	b, err := New(t.Context(), Config{Cases: casefunc.Config{Store: "mem://", Approvers: []string{"ann@example.com"}}, IAPAudience: audience}, Parts{IAP: &http.Client{Transport: p}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { b.Close() })
	f, err := b.Log.Read(t.Context(), caseID, "test")
	if err == nil {
		_, err = f.Append(t.Context(), cases.KindDecided, cases.Decided{Key: "k"})
	}
	if err == nil {
		err = f.Release(t.Context())
	}
	return b, err
}

func clicksOf(t *testing.T, b *Function) (out []cases.Click) {
	t.Helper()
	entries, err := b.Log.Clicks(t.Context(), caseID, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var k cases.Click
		if err := json.Unmarshal(e.Body, &k); err != nil {
			t.Fatal(err)
		}
		out = append(out, k)
	}
	return out
}

// TestVisitors: the casebook shows nothing to whom the proxy does not vouch for, and
// who may not click leaves nothing in the store, however often.
func TestVisitors(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := proxy{t, key}
	f, err := newBook(t, p)
	if err != nil {
		t.Fatal(err)
	}
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{"iss": iapIssuer, "aud": audience, "email": "ann@example.com", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()}
		for k, v := range change {
			c[k] = v
		}
		return c
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token  string
		status int
	}{
		"ann":                  {p.token(claims(nil)), http.StatusSeeOther},
		"bob, who may look":    {p.token(claims(map[string]any{"email": "bob@example.com"})), http.StatusForbidden},
		"no token":             {"", http.StatusUnauthorized},
		"of another service":   {p.token(claims(map[string]any{"aud": "/projects/1/locations/l/services/other"})), http.StatusUnauthorized},
		"of yesterday":         {p.token(claims(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), http.StatusUnauthorized},
		"signed by another":    {proxy{t, other}.token(claims(nil)), http.StatusUnauthorized},
		"of another issuer":    {p.token(claims(map[string]any{"iss": "https://accounts.google.com"})), http.StatusUnauthorized},
		"nobody's in the text": {p.token(claims(map[string]any{"email": ""})), http.StatusUnauthorized},
	} {
		before := len(clicksOf(t, f))
		r := httptest.NewRequest(http.MethodPost, "/cases/"+caseID+"/press", strings.NewReader(url.Values{"what": {"benign"}, "reason": {"build"}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("X-Goog-Authenticated-User-Email", "accounts.google.com:ann@example.com") // anybody can write it
		r.Header.Set(iapAssertion, c.token)
		w := httptest.NewRecorder()
		f.Casebook(w, r)
		if w.Code != c.status {
			t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, c.status)
		}
		clicks := clicksOf(t, f)
		if want := before; c.status == http.StatusSeeOther {
			want++
			if len(clicks) != want {
				t.Errorf("%s: %d clicks, want %d", name, len(clicks), want)
			}
		} else if len(clicks) != want {
			t.Errorf("%s: a click of nobody's is on record", name)
		}
	}
}
