package workflowlang_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	deployed "github.com/contraband-dev/contraband/workflows"

	"github.com/contraband-dev/contraband/internal/workflowlang"
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
		yaml string // steps of main(input), with input.n = 3, input.s = "x" and input.l = ["a", "b"]
		want any    // what it returns, or the error's text
	}{
		// https://cloud.google.com/workflows/docs/reference/syntax/variables
		"assign in order":          {"- a: {assign: [{x: 1}, {y: '${x}'}, {x: 2}]}\n- b: {return: '${y}'}", int64(1)},
		"a variable not yet set":   {"- b: {switch: [{condition: '${x}', return: no}]}\n- a: {assign: [{x: 1}]}", "KeyError"},
		"a missing key":            {"- b: {return: '${input.nothing}'}", "KeyError"},
		"map.get of a missing key": {"- b: {return: '${map.get(input, \"nothing\")}'}", nil},
		"map.get of a key":         {"- b: {return: '${map.get(input, \"s\")}'}", "x"},
		"index":                    {"- b: {return: '${input.l[1]}'}", "b"},
		"an index too far":         {"- b: {return: '${input.l[2]}'}", "IndexError"},
		"a key by expression":      {"- b: {return: '${input[\"s\"]}'}", "x"},
		// https://cloud.google.com/workflows/docs/reference/syntax/expressions
		"precedence":        {"- b: {return: '${false and false or true}'}", true},
		"not before and":    {"- b: {return: '${not false and false}'}", false},
		"not of no boolean": {"- b: {return: '${not input.n}'}", "TypeError"},
		"in a list":         {"- b: {return: '${\"b\" in input.l}'}", true},
		"in a map":          {"- b: {return: '${\"n\" in input}'}", true},
		"in a string":       {"- b: {return: '${\"n\" in input.s}'}", "TypeError"},
		"or is lazy":        {"- b: {return: '${true or input.nothing}'}", true},
		"and is lazy":       {"- b: {return: '${false and input.nothing}'}", false},
		"and of no boolean": {"- b: {return: '${true and input.n}'}", "TypeError"},
		"numbers compare":   {"- b: {return: '${input.n >= 3 and input.n < 4 and input.n != 2 and not (input.n > 3) and input.n <= 3}'}", true},
		"strings compare":   {"- b: {return: '${input.s == \"x\" and input.s > \"w\"}'}", true},
		"unlike are not equal, and have no order": {"- b: {return: '${input.s == 3 or input.s < 3}'}", "TypeError"},
		// https://cloud.google.com/workflows/docs/reference/syntax/conditions
		"the first that is true":  {"- a: {switch: [{condition: '${input.n > 5}', return: 1}, {condition: '${input.n > 2}', return: 2}, {condition: '${true}', return: 3}]}", int64(2)},
		"none is true: on":        {"- a: {switch: [{condition: '${false}', return: 1}]}\n- b: {return: on}", "on"},
		"no number is true":       {"- a: {switch: [{condition: '${input.n}', return: 1}]}", "TypeError"},
		"steps inside":            {"- a: {switch: [{condition: '${true}', steps: [{c: {assign: [{x: 7}]}}]}]}\n- b: {return: '${x}'}", int64(7)},
		"a jump out of the steps": {"- a: {switch: [{condition: '${true}', steps: [{c: {next: d}}]}]}\n- b: {return: no}\n- d: {return: jumped}", "jumped"},
		// https://cloud.google.com/workflows/docs/reference/syntax/jumps
		"next":   {"- a: {assign: [{x: 1}], next: c}\n- b: {return: no}\n- c: {return: '${x}'}", int64(1)},
		"end":    {"- a: {next: end}\n- b: {return: no}", nil},
		"a loop": {"- a: {assign: [{x: false}, {y: false}]}\n- b: {switch: [{condition: '${y}', next: d}]}\n- c: {assign: [{y: '${x}'}, {x: true}], next: b}\n- d: {return: looped}", "looped"},
		// https://cloud.google.com/workflows/docs/reference/syntax/steps#embedded-steps
		"steps in a step": {"- a: {steps: [{b: {assign: [{x: 1}]}}, {c: {return: '${x}'}}]}", int64(1)},
		// https://cloud.google.com/workflows/docs/reference/syntax/catching-errors
		"except sees the error":          {"- a: {try: {raise: {code: 7}}, except: {as: e, steps: [{b: {return: '${e.code}'}}]}}", int64(7)},
		"what it sets first is its own":  {"- a: {try: {raise: x}, except: {as: e, steps: [{b: {assign: [{y: '${e}'}]}}]}}\n- c: {return: '${y}'}", "KeyError"},
		"and so is the error":            {"- a: {try: {raise: x}, except: {as: e, steps: [{b: {assign: [{y: 1}]}}]}}\n- c: {return: '${e}'}", "KeyError"},
		"what was set before it changes": {"- z: {assign: [{y: 1}]}\n- a: {try: {raise: x}, except: {as: e, steps: [{b: {assign: [{y: '${e}'}]}}]}}\n- c: {return: '${y}'}", "x"},
		"what a try has set stays":       {"- a: {try: {steps: [{b: {assign: [{y: 1}]}}]}, except: {as: e, steps: [{d: {return: no}}]}}\n- c: {return: '${y}'}", int64(1)},
		"tags of our own errors":         {"- a: {try: {return: '${input.nothing}'}, except: {as: e, steps: [{b: {return: '${\"KeyError\" in e.tags}'}}]}}", true},
		// https://cloud.google.com/workflows/docs/reference/syntax/raising-errors
		"raised again":     {"- a: {try: {raise: first}, except: {as: e, steps: [{b: {raise: '${e}'}}]}}", "first"},
		"an error ends it": {"- a: {raise: {message: lost}}\n- b: {return: no}", "lost"},
		// https://cloud.google.com/workflows/docs/reference/syntax/subworkflows
		"a subworkflow":             {"- a: {call: same, args: {v: 21}, result: x}\n- b: {return: '${x}'}", int64(21)},
		"its variables are its own": {"- a: {assign: [{v: 1}]}\n- b: {call: same, args: {v: 5}}\n- c: {return: '${v}'}", int64(1)},
		// https://cloud.google.com/workflows/quotas#resource_limit
		"calls in calls in calls": {"- a: {call: again, args: {v: 1}}", "RecursionError"},
		"steps without an end":    {"- a: {next: b}\n- b: {next: a}", "ResourceLimitError"},
		// https://cloud.google.com/workflows/docs/reference/stdlib/sys/get_env
		"the environment":        {"- a: {return: '${sys.get_env(\"NAME\")}'}", "value"},
		"not of the environment": {"- a: {return: '${sys.get_env(\"NOTHING\")}'}", "KeyError"},
		"no name":                {"- a: {return: '${sys.get_env(3)}'}", "TypeError"},
		// https://cloud.google.com/workflows/docs/reference/stdlib/http/post
		"a post's answer": {"- a: {call: http.post, args: {url: u, timeout: 1, auth: {type: OIDC}, body: {k: '${input.n}'}}, result: r}\n- b: {return: '${r.body.k}'}", int64(3)},
		// https://cloud.google.com/workflows/docs/reference/stdlib/events/create_callback_endpoint
		// https://cloud.google.com/workflows/docs/reference/stdlib/events/await_callback
		"a callback":                   {"- a: {call: events.create_callback_endpoint, args: {http_callback_method: POST}, result: c}\n- b: {call: events.await_callback, args: {callback: '${c}', timeout: 7}, result: r}\n- d: {return: '${r.http_request.body}'}", "7s"},
		"no callback":                  {"- b: {call: events.await_callback, args: {callback: '${input.n}', timeout: 7}}", "TypeError"},
		"a time-out that is no number": {"- b: {call: events.await_callback, args: {callback: '${input}', timeout: '${input.s}'}}", "TypeError"},
	} {
		text := "main:\n  params: [input]\n  steps:\n    " + strings.ReplaceAll(c.yaml, "\n", "\n    ") + `
same:
  params: [v]
  steps: [{r: {return: '${v}'}}]
again:
  params: [v]
  steps: [{r: {call: again, args: {v: '${v}'}}}]
`
		d, err := workflowlang.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := d.Run(t.Context(), &echo{}, map[string]any{"n": int64(3), "s": "x", "l": []any{"a", "b"}}, nil)
		if err != nil {
			if want, ok := c.want.(string); !ok || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		} else if got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// echo is an Env that returns what it is asked.
type echo struct{ world }

func (*echo) Getenv(name string) (string, bool) { return "value", name == "NAME" }
func (*echo) Post(_ context.Context, args map[string]any) (map[string]any, error) {
	return map[string]any{"body": args["body"], "code": int64(200)}, nil
}
func (*echo) AwaitCallback(_ context.Context, callback map[string]any, d time.Duration) (map[string]any, error) {
	if callback["url"] != "https://callback/0" {
		return nil, workflowlang.Raise("ValueError", "another callback", 0)
	}
	return map[string]any{"http_request": map[string]any{"body": d.String()}}, nil
}

// TestRetry: the whole block again, as long as the predicate says so, with pauses that
// grow up to the longest. https://cloud.google.com/workflows/docs/reference/syntax/retrying
func TestRetry(t *testing.T) {
	const text = `
main:
  steps:
    - a:
        try:
          steps:
            - b: {call: http.post, args: {url: u, timeout: 1, auth: {}, body: {}}, result: r}
        retry: {predicate: '${again}', max_retries: 4, backoff: {initial_delay: 2, max_delay: 9, multiplier: 3}}
        except: {as: e, steps: [{c: {return: '${e.code}'}}]}
    - d: {return: '${r.body}'}
again:
  params: [e]
  steps: [{f: {return: '${e.code == 503}'}}]
`
	d, err := workflowlang.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		answers []any
		want    any
		posts   int
		slept   string
	}{
		"at once":          {[]any{map[string]any{"body": "ok"}}, "ok", 1, "[]"},
		"the third time":   {[]any{httpError(503), httpError(503), map[string]any{"body": "ok"}}, "ok", 3, "[2s 6s]"},
		"not of that kind": {[]any{httpError(503), httpError(404)}, int64(404), 2, "[2s]"},
		"too often":        {repeat(httpError(503), 9), int64(503), 5, "[2s 6s 9s 9s]"},
	} {
		w := &world{answers: c.answers}
		got, err := d.Run(t.Context(), w, nil, nil)
		if err != nil || got != c.want || len(w.posts) != c.posts || fmt.Sprint(w.slept) != c.slept {
			t.Errorf("%s: %v, %v after %d posts, slept %v; want %v, %d, %s", name, got, err, len(w.posts), w.slept, c.want, c.posts, c.slept)
		}
	}
	if got := fmt.Sprint(d.Steps()); got != "[a b c d f]" {
		t.Errorf("steps %s", got)
	}
}

// TestMistakes: what we do not run, or Workflows would refuse, is reported.
func TestMistakes(t *testing.T) {
	post := func(args string) string { return "main: {steps: [{a: {call: http.post, args: {" + args + "}}}]}" }
	for text, want := range map[string]string{
		"":                                   "empty",
		"other: {steps: [{a: {return: 1}}]}": "no main",
		"main: {steps: []}":                  "needs steps",
		"main: {steps: [{a: {retrun: 1}}]}":  `"retrun" is not known`,
		"main: {steps: [{a: {return: 1, raise: 2}}]}":                                                   "one thing",
		"main: {steps: [{a: {next: nowhere}}]}":                                                         `no step "nowhere"`,
		"main: {steps: [{a: {call: http.get}}]}":                                                        `"http.get" cannot be called`,
		"main: {steps: [{a: {call: sys.sleep, args: {seconds: 1}}}]}":                                   `"sys.sleep" cannot be called`,
		"main: {steps: [{a: {call: [x]}}]}":                                                             "a string is wanted",
		post("uri: x"):                                                                                  `"uri" is not known`,
		post("timeout: 1, auth: {}, body: {}"):                                                          `"url" is missing`,
		"main: {steps: [{a: {call: events.await_callback, args: {timeout: 1}}}]}":                       `"callback" is missing`,
		"main: {steps: [{a: {call: s, args: {w: 1}}}]}\ns: {params: [v], steps: [{b: {return: 1}}]}":    `"v" is missing`,
		"main: {params: [{x: 1}], steps: [{a: {return: 1}}]}":                                           "a string is wanted",
		"main: {params: x, steps: [{a: {return: 1}}]}":                                                  "a list is wanted",
		"main: {params: [x, x], steps: [{a: {return: 1}}]}":                                             `"x" twice`,
		"main: {steps: [{a: {return: 1}}, {a: {return: 2}}]}":                                           `step "a" twice`,
		"main: {steps: [{a: {steps: [{a: {return: 1}}]}}]}":                                             `step "a" twice`,
		"main: {steps: [{a b: {return: 1}}]}":                                                           "no step's name",
		"main: {steps: [{a: {assign: [{m: {}}, {m.k: 2}]}}]}":                                           "no variable's name",
		"main: {steps: [{a: {assign: [{true: 2}]}}]}":                                                   "no variable's name",
		"main: {steps: [{a: {assign: [{x: 1, y: 2}]}}]}":                                                "one variable and its value",
		"main: {steps: [{a: {call: s, args: {v: 1}, result: 'x y'}}]}":                                  "no variable's name",
		"main: {steps: [{a: {return: '${nobody}'}}]}":                                                   `nothing sets the variable "nobody"`,
		"main: {steps: [{a: {return: '${1 ==}'}}]}":                                                     "ends too early",
		"main: {steps: [{a: {return: '${f(1)}'}}]}":                                                     `function "f"`,
		"main: {steps: [{a: {return: '${len(\"x\")}'}}]}":                                               `function "len"`,
		"main: {steps: [{a: {return: '${1 / 2}'}}]}":                                                    `"/" is not known`,
		"main: {steps: [{a: {return: '${1 + 2}'}}]}":                                                    `"+" is not known`,
		"main: {steps: [{a: {return: 'x ${y}'}}]}":                                                      "whole of a string",
		"main: {steps: [{a: {switch: [{condition: yes, return: 1}]}}]}":                                 "a condition is an expression",
		"main: {steps: [{a: {switch: []}}]}":                                                            "a list of conditions",
		"main: {steps: [{a: {try: {return: 1, next: b}}}, {b: {return: 2}}]}":                           "does not leave a try",
		"main: {steps: [{a: {try: {steps: [{c: {next: b}}]}}}, {b: {return: 2}}]}":                      `no step "b"`,
		"main: {steps: [{a: {try: {return: 1}, retry: {predicate: '${nobody}'}}}]}":                     `predicate "nobody"`,
		"main: {steps: [{a: {return: 1, retry: {max_retries: 1}}}]}":                                    "belong to a try",
		"main: {steps: [{a: {return: '${" + strings.Repeat("1 == ", 100) + "1}'}}]}":                    "400 are taken",
		"main: {steps: [{a: {for: {value: v, in: [1], steps: [{b: {return: 1}}]}}}]}":                   `"for" is not known`,
		"main: {steps: [{a: {return: 1}}]}\n# " + strings.Repeat("x", workflowlang.MaxDefinition):       "at most",
		"main: {steps: [{a: {try: {return: 1}, retry: {predicate: '${main}', backoff: {intial: 1}}}}]}": `"intial" is not known`,
		"main: {steps: [{a: {return: 1}}]}\n---\nmain: {steps: [{a: {return: 2}}]}":                     "a second document",
	} {
		if _, err := workflowlang.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: error %v, want one that says %q", text, err, want)
		}
	}
}

func answer(body map[string]any) map[string]any {
	return map[string]any{"code": int64(200), "body": body}
}

func httpError(code int) error {
	return &workflowlang.Error{Value: map[string]any{"tags": []any{"HttpError"}, "code": int64(code), "message": "x"}}
}

// TestCase: the deployed file, by what it asks and how long it waits.
func TestCase(t *testing.T) {
	d, err := workflowlang.Parse(deployed.Case)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": "e1", "ADVANCE_URL": "https://advance", "ADVANCE_AUDIENCE": "https://advance"}
	wait, done := answer(map[string]any{"done": false, "waitSeconds": int64(60)}), answer(map[string]any{"done": true, "why": "closed: benign"})
	late := workflowlang.Raise("TimeoutError", "no request", 0)
	for name, c := range map[string]struct {
		answers, awaits []any
		posts           int
		slept           string
		want            string
	}{
		"closed at once":               {answers: []any{done}, posts: 1, slept: "[]", want: "closed: benign"},
		"time passes, then a press":    {answers: []any{wait, wait, done}, awaits: []any{late, map[string]any{}}, posts: 3, slept: "[1m0s 1m0s]", want: "closed: benign"},
		"transient errors, backed off": {answers: []any{httpError(503), httpError(429), httpError(500), done}, posts: 4, slept: "[2s 4s 8s]", want: "closed: benign"},
		"an answer that is too late":   {answers: []any{workflowlang.Raise("TimeoutError", "x", 0), done}, posts: 2, slept: "[2s]", want: "closed: benign"},
		"a connection that fails":      {answers: []any{workflowlang.Raise("ConnectionFailedError", "x", 0), done}, posts: 2, slept: "[2s]", want: "closed: benign"},
		"a connection that breaks":     {answers: []any{workflowlang.Raise("ConnectionError", "x", 0), done}, posts: 2, slept: "[2s]", want: "closed: benign"},
		"refused for good":             {answers: []any{httpError(422)}, posts: 1, slept: "[]", want: "code:422"},
		"never answered":               {answers: repeat(httpError(503), 30), posts: 21, slept: "", want: "code:503"},
		"another error of waiting":     {answers: []any{wait}, awaits: []any{workflowlang.Raise("ValueError", "odd", 0)}, posts: 1, slept: "[1m0s]", want: "odd"},
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
