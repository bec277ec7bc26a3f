package respond

import (
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/docket"
)

// TestNextAction reads as the playbook of containment: what has been done, and what
// is due then.
func TestNextAction(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	all := []string{docket.Evict, docket.Cordon, docket.Isolate, docket.Evidence, docket.Page, docket.Freeze} // in no order
	ok := docket.Acted{Done: true, Until: now.Add(time.Hour)}
	over := docket.Acted{Done: true, Until: now.Add(-time.Minute)}
	bare := docket.Acted{Done: true, NotEnforced: "nothing enforces"}
	failed := docket.Acted{Error: "refused"}
	soon, past := docket.Acted{Error: "not yet", Later: now.Add(time.Minute)}, docket.Acted{Error: "not yet", Later: now.Add(-time.Minute)}
	type deed struct {
		action string
		acted  *docket.Acted
		click  string
	}
	did := func(action string, a docket.Acted) deed { return deed{action: action, acted: &a} }
	for name, c := range map[string]struct {
		do, otherwise []string
		atEnd         bool
		done          []deed
		clicks        []docket.Click
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
		"an ending uncordons":              {do: []string{"cordon"}, done: []deed{did("cordon", ok)}, clicks: press("remediated"), want: "uncordon"},
		"an ending begins nothing":         {do: all, clicks: press("benign")},
	} {
		k := docket.Case{Clicks: c.clicks, Lost: c.lost, Expired: c.expired, Decided: docket.Decided{Decision: docket.Decision{Do: c.do, Otherwise: c.otherwise, EscalateAtEnd: c.atEnd}}}
		for n, p := range c.done {
			k.Claims = append(k.Claims, docket.Claim{N: n, Claimed: docket.Claimed{Action: p.action, Click: p.click}, Acted: p.acted})
		}
		if got, _ := nextAction(k, now); got != c.want {
			t.Errorf("%s: %q is due, want %q", name, got, c.want)
		}
	}
}

func press(what ...string) (out []docket.Click) {
	for i, w := range what {
		out = append(out, docket.Click{ID: "click" + string(rune('0'+i)), What: w})
	}
	return out
}

// TestExtensionThatFails: the hold that it was to extend still holds.
func TestExtensionThatFails(t *testing.T) {
	k := docket.Case{Clicks: press("extend"), Claims: []docket.Claim{
		{N: 1, Claimed: docket.Claimed{Action: docket.Freeze}, Acted: &docket.Acted{Done: true}},
		{N: 2, Claimed: docket.Claimed{Action: docket.Freeze, Click: "click0"}, Acted: &docket.Acted{Error: "refused"}},
	}}
	if !k.Frozen() || k.Status() != "frozen" {
		t.Errorf("the case says %q", k.Status())
	}
	if got, _ := nextAction(k, time.Now()); got != "" {
		t.Errorf("%q is due: it would be tried for ever", got)
	}
}

// TestHalfMadeAndReleased: a hold that was begun and has no end is over once it was
// undone, though a later undoing failed: the case can be closed.
func TestHalfMadeAndReleased(t *testing.T) {
	k := docket.Case{Clicks: press("release"), Lost: "restarted", Claims: []docket.Claim{
		{N: 1, Claimed: docket.Claimed{Action: docket.Freeze}, Acted: &docket.Acted{Done: true}},
		{N: 2, Claimed: docket.Claimed{Action: docket.Isolate}},
	}}
	if got := refuses(k, docket.Click{What: docket.PressRemediated}); !strings.Contains(got, "under way") || k.Released() {
		t.Errorf("half made: %q, released %v", got, k.Released())
	}
	k.Claims = append(k.Claims, docket.Claim{N: 3, Claimed: docket.Claimed{Action: docket.Release, Click: "click0"}, Acted: &docket.Acted{Done: true}},
		docket.Claim{N: 4, Claimed: docket.Claimed{Action: docket.Release, Click: "another"}, Acted: &docket.Acted{Error: "refused"}})
	if got := refuses(k, docket.Click{What: docket.PressRemediated}); got != "" || !k.Released() || closingOf(k) == nil {
		t.Errorf("undone: %q, released %v", got, k.Released())
	}
}

// TestPutOffEnds: an action that is put off for ever is tried thirty times.
func TestPutOffEnds(t *testing.T) {
	now := time.Now()
	k := docket.Case{Decided: docket.Decided{Decision: docket.Decision{Do: []string{docket.Evict}}}}
	for n := range maxTries {
		if got, _ := nextAction(k, now); got != docket.Evict {
			t.Fatalf("try %d: %q is due", n, got)
		}
		k.Claims = append(k.Claims, docket.Claim{N: n, Claimed: docket.Claimed{Action: docket.Evict}, Acted: &docket.Acted{Error: "not yet", Later: now.Add(-time.Second)}})
	}
	if got, _ := nextAction(k, now); got != "" {
		t.Errorf("after %d tries %q is due", maxTries, got)
	}
}

// TestButtonsAreRefusedInWords: what cannot be done now says why.
func TestButtonsAreRefusedInWords(t *testing.T) {
	held := docket.Case{Claims: []docket.Claim{{Claimed: docket.Claimed{Action: docket.Isolate}, Acted: &docket.Acted{Done: true}}}}
	held.Decided.Finding.Pod.Name = "p"
	free := docket.Case{}
	for _, c := range []struct {
		k    docket.Case
		what string
		want string
	}{
		{free, docket.PressRelease, "nothing is"}, {held, docket.PressRelease, ""}, {free, docket.PressEvict, "no pod"}, {held, docket.PressEvict, "no evidence"},
		{held, docket.PressBenign, "still isolated"}, {free, docket.PressBenign, ""}, {free, "explode", "no such button"},
	} {
		if got := refuses(c.k, docket.Click{What: c.what}); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}
