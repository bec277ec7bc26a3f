package respond

import (
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
)

// TestNextContainment reads as the playbook of containment: what has been done, and what
// is due then.
func TestNextContainment(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	all := []string{cases.Evict, cases.Cordon, cases.Isolate, cases.Evidence, cases.Page, cases.Freeze} // in no order
	ok := cases.Outcome{Done: true, Until: now.Add(time.Hour)}
	over := cases.Outcome{Done: true, Until: now.Add(-time.Minute)}
	bare := cases.Outcome{Done: true, NotEnforced: "nothing enforces"}
	failed := cases.Outcome{Error: "refused"}
	soon, past := cases.Outcome{Error: "not yet", RetryAt: now.Add(time.Minute)}, cases.Outcome{Error: "not yet", RetryAt: now.Add(-time.Minute)}
	type deed struct {
		action string
		acted  *cases.Outcome
		click  string
	}
	did := func(action string, a cases.Outcome) deed { return deed{action: action, acted: &a} }
	for name, c := range map[string]struct {
		do, otherwise []string
		atEnd         bool
		done          []deed
		clicks        []cases.Click
		lost          string
		expired       bool
		want          string
	}{
		"the order is what each destroys":  {do: all, want: "freeze"},
		"a claim without an end goes on":   {do: all, done: []deed{{action: "freeze"}}, want: "freeze"},
		"evidence after the freeze":        {do: all, done: []deed{did("freeze", ok)}, want: "evidence"},
		"a refusal does not stop the rest": {do: all, done: []deed{did("freeze", failed)}, want: "evidence"},
		"isolate":                          {do: all, done: []deed{did("freeze", ok), did("evidence", ok)}, want: "isolate"},
		"cordon":                           {do: all, done: []deed{did("freeze", ok), did("evidence", ok), did("isolate", ok)}, want: "cordon"},
		"evict last":                       {do: all, done: []deed{did("freeze", ok), did("evidence", ok), did("isolate", ok), did("cordon", ok)}, want: "evict"},
		"put off":                          {do: []string{"evict"}, done: []deed{did("evict", soon)}},
		"put off until now":                {do: []string{"evict"}, done: []deed{did("evict", past)}, want: "evict"},
		"evidence may still come":          {do: []string{"evidence", "evict"}, done: []deed{did("evidence", soon)}},
		"evidence is tried again":          {do: []string{"evidence", "evict"}, done: []deed{did("evidence", past)}, want: "evidence"},
		"evidence will never come":         {do: []string{"evidence", "evict"}, done: []deed{did("evidence", failed)}, want: "evict"},
		"an undoing that is put off":       {do: all, done: []deed{did("freeze", ok), {action: "thaw", acted: &soon, click: "click0"}}, clicks: press("release")},
		"and tried again by itself":        {do: all, done: []deed{did("freeze", ok), {action: "thaw", acted: &past, click: "click0"}}, clicks: press("release"), want: "thaw"},
		"nothing in trouble, no otherwise": {do: []string{"isolate"}, otherwise: []string{"evict"}, done: []deed{did("isolate", ok)}},
		"not enforced: otherwise":          {do: []string{"isolate"}, otherwise: []string{"evict"}, done: []deed{did("isolate", bare)}, want: "evict"},
		"freeze lost: otherwise":           {do: []string{"freeze"}, otherwise: []string{"isolate"}, done: []deed{did("freeze", ok)}, lost: "restarted", want: "isolate"},
		"isolation over: released":         {do: []string{"isolate"}, done: []deed{did("isolate", over)}, want: "release"},
		"isolation over: otherwise":        {do: []string{"isolate"}, otherwise: []string{"evict"}, atEnd: true, done: []deed{did("isolate", over)}, want: "evict"},
		"freeze over: nothing":             {do: []string{"freeze"}, otherwise: []string{"evict"}, done: []deed{did("freeze", over)}, expired: true},
		"freeze over: otherwise":           {do: []string{"freeze"}, otherwise: []string{"evict"}, atEnd: true, done: []deed{did("freeze", over)}, expired: true, want: "evict"},
		"to last longer, half done":        {do: []string{"isolate"}, done: []deed{did("isolate", over), did("release", failed), {action: "isolate", click: "click0"}}, clicks: press("extend"), want: "isolate"},
		"released once":                    {do: []string{"isolate"}, done: []deed{did("isolate", over), did("release", ok)}},
		"release undoes the last first":    {do: all, done: []deed{did("freeze", ok), did("isolate", ok), did("cordon", ok)}, clicks: press("release"), want: "uncordon"},
		"then isolation":                   {do: all, done: []deed{did("freeze", ok), did("isolate", ok), did("cordon", ok), did("uncordon", ok)}, clicks: press("release"), want: "release"},
		"then the freeze":                  {do: all, done: []deed{did("freeze", ok), did("isolate", ok), did("release", ok)}, clicks: press("release"), want: "thaw"},
		"nothing is begun after a release": {do: all, done: []deed{did("freeze", ok), did("thaw", ok)}, clicks: press("release")},
		"an undoing that fails, once":      {do: all, done: []deed{did("freeze", ok), {action: "thaw", acted: &failed, click: "click0"}}, clicks: press("release")},
		"and again when asked again":       {do: all, done: []deed{did("freeze", ok), {action: "thaw", acted: &failed, click: "click0"}}, clicks: press("release", "release"), want: "thaw"},
		"a half-made hold is undone too":   {do: all, done: []deed{did("freeze", ok), {action: "isolate"}}, clicks: press("release"), want: "release"},
		"an evict button":                  {do: []string{"freeze", "evidence"}, done: []deed{did("freeze", ok), did("evidence", ok)}, clicks: press("evict"), want: "evict"},
		"contained by hand":                {do: []string{"page"}, clicks: press("contain"), want: "freeze"},
		"by hand, evidence too":            {do: []string{"page"}, done: []deed{{action: "freeze", acted: &ok, click: "click0"}}, clicks: press("contain"), want: "evidence"},
		"by hand after a refusal":          {do: []string{"freeze"}, done: []deed{did("freeze", failed)}, clicks: press("contain"), want: "freeze"},
		"by hand, refused: once":           {do: []string{"page"}, done: []deed{{action: "freeze", acted: &failed, click: "click0"}, did("evidence", ok)}, clicks: press("contain")},
		"by hand, and again":               {do: []string{"page"}, done: []deed{{action: "freeze", acted: &failed, click: "click0"}, did("evidence", ok)}, clicks: press("contain", "contain"), want: "freeze"},
		"by hand, put off":                 {do: []string{"page"}, done: []deed{{action: "freeze", acted: &soon, click: "click0"}, did("evidence", ok)}, clicks: press("contain")},
		"by hand, over":                    {do: []string{"page"}, done: []deed{{action: "freeze", acted: &over, click: "click0"}, did("evidence", ok)}, clicks: press("contain"), expired: true},
		"by hand, extended, over":          {do: []string{"page"}, done: []deed{{action: "freeze", acted: &over, click: "click0"}, did("evidence", ok), {action: "freeze", acted: &over, click: "click1"}}, clicks: press("contain", "extend"), expired: true},
		"by hand, released":                {do: []string{"page"}, done: []deed{{action: "freeze", acted: &ok, click: "click0"}, did("evidence", ok)}, clicks: press("contain", "release"), want: "thaw"},
		"an ending uncordons":              {do: []string{"cordon"}, done: []deed{did("cordon", ok)}, clicks: press("remediated"), want: "uncordon"},
		"an ending begins nothing":         {do: all, clicks: press("benign")},
	} {
		k := cases.Case{Clicks: c.clicks, FreezeLostReason: c.lost, Expired: c.expired, Decided: cases.Decided{Decision: cases.Decision{Do: c.do, Fallback: c.otherwise, FallbackOnExpiry: c.atEnd}}}
		for n, p := range c.done {
			k.Claims = append(k.Claims, cases.Claim{N: n, Claimed: cases.Claimed{Action: p.action, Click: p.click}, Outcome: p.acted})
		}
		if got, _, _ := nextContainment(k, now); got != c.want {
			t.Errorf("%s: %q is due, want %q", name, got, c.want)
		}
	}
}

func press(what ...string) (out []cases.Click) {
	for i, w := range what {
		out = append(out, cases.Click{ID: "click" + string(rune('0'+i)), What: w})
	}
	return out
}

// TestExtensionThatFails: the hold that it was to extend still holds.
func TestExtensionThatFails(t *testing.T) {
	k := cases.Case{Clicks: press("extend"), Claims: []cases.Claim{
		{N: 1, Claimed: cases.Claimed{Action: cases.Freeze}, Outcome: &cases.Outcome{Done: true}},
		{N: 2, Claimed: cases.Claimed{Action: cases.Freeze, Click: "click0"}, Outcome: &cases.Outcome{Error: "refused"}},
	}}
	if !k.Frozen() || k.Status() != "frozen" {
		t.Errorf("the case says %q", k.Status())
	}
	if got, _, _ := nextContainment(k, time.Now()); got != "" {
		t.Errorf("%q is due: it would be tried for ever", got)
	}
}

// TestHalfMadeContainmentIsReleased: a hold that was begun and has no end is over once it was
// undone, though a later undoing failed: the case can be closed.
func TestHalfMadeContainmentIsReleased(t *testing.T) {
	k := cases.Case{Clicks: press("release"), FreezeLostReason: "restarted", Claims: []cases.Claim{
		{N: 1, Claimed: cases.Claimed{Action: cases.Freeze}, Outcome: &cases.Outcome{Done: true}},
		{N: 2, Claimed: cases.Claimed{Action: cases.Isolate}},
	}}
	if got := refuses(k, cases.Click{What: cases.ActionRemediated}); !strings.Contains(got, "in progress") || k.Released() {
		t.Errorf("half made: %q, released %v", got, k.Released())
	}
	k.Claims = append(k.Claims, cases.Claim{N: 3, Claimed: cases.Claimed{Action: cases.Release, Click: "click0"}, Outcome: &cases.Outcome{Done: true}},
		cases.Claim{N: 4, Claimed: cases.Claimed{Action: cases.Release, Click: "another"}, Outcome: &cases.Outcome{Error: "refused"}})
	if got := refuses(k, cases.Click{What: cases.ActionRemediated}); got != "" || !k.Released() || closing(k) == nil {
		t.Errorf("undone: %q, released %v", got, k.Released())
	}
}

// TestDeferredActionIsNotTriedForever: an action that is put off for ever is tried thirty times.
func TestDeferredActionIsNotTriedForever(t *testing.T) {
	now := time.Now()
	k := cases.Case{Decided: cases.Decided{Decision: cases.Decision{Do: []string{cases.Evict}}}}
	for n := range maxTries {
		if got, _, _ := nextContainment(k, now); got != cases.Evict {
			t.Fatalf("try %d: %q is due", n, got)
		}
		k.Claims = append(k.Claims, cases.Claim{N: n, Claimed: cases.Claimed{Action: cases.Evict}, Outcome: &cases.Outcome{Error: "not yet", RetryAt: now.Add(-time.Second)}})
	}
	if got, _, _ := nextContainment(k, now); got != "" {
		t.Errorf("after %d tries %q is due", maxTries, got)
	}
}

// TestRefusedClicksSayWhy: what cannot be done now says why.
func TestRefusedClicksSayWhy(t *testing.T) {
	held := cases.Case{Claims: []cases.Claim{{Claimed: cases.Claimed{Action: cases.Isolate}, Outcome: &cases.Outcome{Done: true}}}}
	held.Decided.Finding.Pod.Name = "p"
	free := cases.Case{}
	for _, c := range []struct {
		k    cases.Case
		what string
		want string
	}{
		{free, cases.ActionContain, "does not name a container"}, {held, cases.ActionContain, "does not name"}, {free, cases.ActionRelease, "nothing is"}, {held, cases.ActionRelease, ""}, {free, cases.ActionEvict, "no pod"}, {held, cases.ActionEvict, "no evidence"},
		{held, cases.ActionExpected, "still isolated"}, {free, cases.ActionExpected, ""}, {free, "explode", "no such button"},
	} {
		if got := refuses(c.k, cases.Click{What: c.what}); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}
