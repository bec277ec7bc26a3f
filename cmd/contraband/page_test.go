package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func runPreview(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, messages strings.Builder
	err := run(t.Context(), append([]string{"page", "preview"}, args...), &out, &messages)
	return out.String(), err
}

const recorded = "../../internal/finding/testdata/console_tab.json"

func TestPagePreviewExplainsTheRouting(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(rules, []byte(`
rules: [{name: all, do: [page]}]
routes: [{when: 'pod.namespace == "shop"', slack: "#shop", pagerduty: shop, mention: "@shop-oncall"}]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runPreview(t, "--policy", rules, recorded)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"slack:#shop", "@shop-oncall", "pagerduty:shop", `route: pod.namespace == "shop"`, "Reverse Shell in shop/web-1"} {
		if !strings.Contains(out, want) {
			t.Errorf("the preview lacks %q:\n%s", want, out)
		}
	}
	if out, err = runPreview(t, recorded); err != nil || !strings.Contains(out, "the security channel") {
		t.Errorf("without a route: %v\n%s", err, out)
	}
}

func TestPagePreviewOfEachChannel(t *testing.T) {
	for channel, want := range map[string]string{
		"slack": `"type": "header"`, "chat": `"cardsV2"`, "pagerduty": `"severity"`, "webhook": `"event": "opened"`, "email": "Subject: ["} {
		out, err := runPreview(t, "--channel", channel, recorded)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, without %q:\n%.300s", channel, err, want, out)
		}
	}
	if _, err := runPreview(t, "--channel", "telegram", recorded); err == nil || !strings.Contains(err.Error(), "telegram") {
		t.Errorf("an unknown channel: %v", err)
	}
}

func TestPagePreviewWritesHTML(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.html")
	if _, err := runPreview(t, "--html", file, recorded); err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(body), "Process tree") || strings.Contains(string(body), "<script") {
		t.Errorf("%v: %.300s", err, body)
	}
}
