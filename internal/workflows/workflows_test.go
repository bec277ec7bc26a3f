package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	deployed "github.com/contraband-dev/contraband/workflows"

	"github.com/contraband-dev/contraband/internal/workflows"
)

// world is an Env in virtual time: it sleeps and waits by moving its clock.
type world struct {
	env     map[string]string
	posts   []map[string]any
	answers []any // of Post, in order: map[string]any or error
	awaits  []any // of AwaitCallback
	slept   []time.Duration
}

func (w *world) Getenv(name string) (string, bool) { v, ok := w.env[name]; return v, ok }
func (w *world) Sleep(_ context.Context, d time.Duration) error {
	w.slept = append(w.slept, d)
	return nil
}
func (w *world) Post(_ context.Context, args map[string]any) (map[string]any, error) {
	w.posts = append(w.posts, args)
	return next(&w.answers)
}
func (w *world) CreateCallback(context.Context, string) (map[string]any, error) {
	return map[string]any{"url": fmt.Sprintf("https://callback/%d", len(w.posts))}, nil
}
func (w *world) AwaitCallback(_ context.Context, _ map[string]any, d time.Duration) (map[string]any, error) {
	w.slept = append(w.slept, d)
	return next(&w.awaits)
}

var errEnd = errors.New("the test has nothing more to answer")

func next(from *[]any) (map[string]any, error) {
	if len(*from) == 0 {
		return nil, errEnd
	}
	v := (*from)[0]
	*from = (*from)[1:]
	if err, ok := v.(error); ok {
		return nil, err
	}
	return v.(map[string]any), nil
}

// TestConstructs: each construct does what Google's reference says.
func TestConstructs(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string // steps of main(input), with input.n = 3 and input.s = "x"
		want any    // what it returns, or the error's text
	}{
		// https://cloud.google.com/workflows/docs/reference/syntax/variables
		"assign in order":            {"- a: {assign: [{x: 1}, {y: '${x + 1}'}]}\n- b: {return: '${y}'}", int64(2)},
		"a variable that is not set": {"- b: {return: '${nobody}'}", "KeyError"},
		"a missing key":              {"- b: {return: '${input.nothing}'}", "KeyError"},
		"map.get of a missing key":   {"- b: {return: '${map.get(input, \"nothing\")}'}", nil},
		"default":                    {"- b: {return: '${default(map.get(input, \"nothing\"), \"d\")}'}", "d"},
		"index":                      {"- a: {assign: [{x: [5, 6]}]}\n- b: {return: '${x[1]}'}", int64(6)},
		"no negative index":          {"- a: {assign: [{x: [5, 6]}]}\n- b: {return: '${x[-1]}'}", "IndexError"},
		// https://cloud.google.com/workflows/docs/reference/syntax/expressions
		"strings add":           {"- b: {return: '${input.s + \"y\"}'}", "xy"},
		"a string and a number": {"- b: {return: '${input.s + 1}'}", "TypeError"},
		"precedence":            {"- b: {return: '${false and false or true}'}", true},
		"not before and":        {"- b: {return: '${not false and false}'}", false},
		"in a list":             {"- b: {return: '${\"b\" in [\"a\", \"b\"]}'}", true},
		"in a map":              {"- b: {return: '${\"n\" in input}'}", true},
		"or is lazy":            {"- b: {return: '${true or input.nothing}'}", true},
		"numbers compare":       {"- b: {return: '${input.n >= 3 and input.n < 3.5}'}", true},
		"no number is true":     {"- a: {switch: [{condition: '${input.n}', return: 1}]}", "TypeError"},
		// https://cloud.google.com/workflows/docs/reference/syntax/conditions
		"the first that is true":  {"- a: {switch: [{condition: '${input.n > 5}', return: 1}, {condition: '${input.n > 2}', return: 2}, {condition: '${true}', return: 3}]}", int64(2)},
		"none is true: on":        {"- a: {switch: [{condition: '${false}', return: 1}]}\n- b: {return: on}", "on"},
		"steps inside":            {"- a: {switch: [{condition: '${true}', steps: [{c: {assign: [{x: 7}]}}]}]}\n- b: {return: '${x}'}", int64(7)},
		"a jump out of the steps": {"- a: {switch: [{condition: '${true}', steps: [{c: {next: d}}]}]}\n- b: {return: no}\n- d: {return: jumped}", "jumped"},
		// https://cloud.google.com/workflows/docs/reference/syntax/jumps
		"next":            {"- a: {assign: [{x: 1}], next: c}\n- b: {return: no}\n- c: {return: '${x}'}", int64(1)},
		"end":             {"- a: {next: end}\n- b: {return: no}", nil},
		"a loop, counted": {"- a: {assign: [{x: 0}]}\n- b: {assign: [{x: '${x + 1}'}]}\n- c: {switch: [{condition: '${x < 4}', next: b}]}\n- d: {return: '${x}'}", int64(4)},
		// https://cloud.google.com/workflows/docs/reference/syntax/catching-errors
		"except sees the error":     {"- a: {try: {raise: {code: 7}}, except: {as: e, steps: [{b: {return: '${e.code}'}}]}}", int64(7)},
		"and is left with it":       {"- a: {try: {raise: x}, except: {as: e, steps: [{b: {assign: [{y: 1}]}}]}}\n- c: {return: '${e}'}", "KeyError"},
		"on after except":           {"- a: {try: {raise: x}, except: {as: e, steps: [{b: {assign: [{y: '${e}'}]}}]}}\n- c: {return: '${y}'}", "x"},
		"tags of our own errors":    {"- a: {try: {return: '${input.nothing}'}, except: {as: e, steps: [{b: {return: '${\"KeyError\" in e.tags}'}}]}}", true},
		"raised again":              {"- a: {try: {raise: first}, except: {as: e, steps: [{b: {raise: '${e + \"!\"}'}}]}}", "first!"},
		"an error ends it":          {"- a: {raise: {message: lost}}\n- b: {return: no}", "lost"},
		"a subworkflow":             {"- a: {call: double, args: {v: 21}, result: x}\n- b: {return: '${x}'}", int64(42)},
		"its variables are its own": {"- a: {assign: [{v: 1}]}\n- b: {call: double, args: {v: 5}}\n- c: {return: '${v}'}", int64(1)},
	} {
		text := "main:\n  params: [input]\n  steps:\n    " + strings.ReplaceAll(c.yaml, "\n", "\n    ") + "\ndouble:\n  params: [v]\n  steps: [{r: {return: '${v + v}'}}]\n"
		d, err := workflows.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := d.Run(t.Context(), &world{}, map[string]any{"n": int64(3), "s": "x"}, nil)
		if err != nil {
			if want, ok := c.want.(string); !ok || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		} else if got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestMistakes: what we do not run, or Workflows would refuse, is told.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"other: {steps: [{a: {return: 1}}]}":                                                            "no main",
		"main: {steps: []}":                                                                             "needs steps",
		"main: {steps: [{a: {retrun: 1}}]}":                                                             `"retrun" is not known`,
		"main: {steps: [{a: {return: 1, raise: 2}}]}":                                                   "one thing",
		"main: {steps: [{a: {next: nowhere}}]}":                                                         `no step "nowhere"`,
		"main: {steps: [{a: {call: http.get}}]}":                                                        `"http.get" cannot be called`,
		"main: {steps: [{a: {call: http.post, args: {uri: x}}}]}":                                       `"uri" is not known`,
		"main: {steps: [{a: {return: 1}}, {a: {return: 2}}]}":                                           `step "a" twice`,
		"main: {steps: [{a: {return: '${1 +}'}}]}":                                                      "ends too early",
		"main: {steps: [{a: {return: '${f(1)}'}}]}":                                                     `function "f"`,
		"main: {steps: [{a: {return: '${1 / 2}'}}]}":                                                    `"/" is not known`,
		"main: {steps: [{a: {return: 'x ${y}'}}]}":                                                      "whole of a string",
		"main: {steps: [{a: {switch: [{condition: yes, return: 1}]}}]}":                                 "a condition is an expression",
		"main: {steps: [{a: {try: {return: 1}, retry: {predicate: '${nobody}'}}}]}":                     `predicate "nobody"`,
		"main: {steps: [{a: {return: 1, retry: {max_retries: 1}}}]}":                                    "belong to a try",
		"main: {steps: [{a: {return: '${" + strings.Repeat("1 + ", 100) + "1}'}}]}":                     "400 are taken",
		"main: {steps: [{a: {for: {value: v, in: [1], steps: [{b: {return: 1}}]}}}]}":                   `"for" is not known`,
		"main: {steps: [{a: {return: 1}}]}\n# " + strings.Repeat("x", workflows.MaxDefinition):          "at most",
		"main: {steps: [{a: {try: {return: 1}, retry: {predicate: '${main}', backoff: {intial: 1}}}}]}": `"intial" is not known`,
	} {
		if _, err := workflows.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: error %v, want one that says %q", text, err, want)
		}
	}
}

func answer(body map[string]any) map[string]any {
	return map[string]any{"code": int64(200), "body": body}
}

func httpError(code int) error {
	return &workflows.Error{Value: map[string]any{"tags": []any{"HttpError"}, "code": int64(code), "message": "x"}}
}

// TestCase: the deployed file, by what it asks and how long it waits.
func TestCase(t *testing.T) {
	d, err := workflows.Parse(deployed.Case)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": "e1", "ADVANCE_URL": "https://advance", "ADVANCE_AUDIENCE": "https://advance"}
	wait, done := answer(map[string]any{"done": false, "waitSeconds": int64(60)}), answer(map[string]any{"done": true, "why": "closed: benign"})
	late := workflows.Raise("TimeoutError", "no request", 0)
	for name, c := range map[string]struct {
		answers, awaits []any
		posts           int
		slept           string
		want            string
	}{
		"closed at once":               {answers: []any{done}, posts: 1, slept: "[]", want: "closed: benign"},
		"time passes, then a press":    {answers: []any{wait, wait, done}, awaits: []any{late, map[string]any{}}, posts: 3, slept: "[1m0s 1m0s]", want: "closed: benign"},
		"transient errors, backed off": {answers: []any{httpError(503), httpError(429), httpError(500), done}, posts: 4, slept: "[2s 4s 8s]", want: "closed: benign"},
		"a connection that breaks":     {answers: []any{workflows.Raise("ConnectionError", "x", 0), done}, posts: 2, slept: "[2s]", want: "closed: benign"},
		"refused for good":             {answers: []any{httpError(422)}, posts: 1, slept: "[]", want: "code:422"},
		"never answered":               {answers: repeat(httpError(503), 30), posts: 21, slept: "", want: "code:503"},
		"another error of waiting":     {answers: []any{wait}, awaits: []any{workflows.Raise("ValueError", "odd", 0)}, posts: 1, slept: "[1m0s]", want: "odd"},
	} {
		w := &world{env: env, answers: c.answers, awaits: c.awaits}
		got, err := d.Run(t.Context(), w, map[string]any{"case": "c1"}, nil)
		said := fmt.Sprint(got)
		if err != nil {
			said = err.Error()
		}
		if !strings.Contains(said, c.want) || len(w.posts) != c.posts || c.slept != "" && fmt.Sprint(w.slept) != c.slept {
			t.Errorf("%s: %s after %d posts, slept %v; want %s, %d, %s", name, said, len(w.posts), w.slept, c.want, c.posts, c.slept)
		}
		body := w.posts[0]["body"].(map[string]any)
		if body["case"] != "c1" || body["execution"] != "e1" || body["callback"] != "https://callback/0" || len(body) != 3 {
			t.Errorf("%s: it sent %v", name, body)
		}
		for _, slept := range w.slept[min(len(w.slept), 20):] {
			if slept > 5*time.Minute {
				t.Errorf("%s: slept %s", name, slept)
			}
		}
	}
}

func repeat(v any, n int) (out []any) {
	for range n {
		out = append(out, v)
	}
	return out
}
