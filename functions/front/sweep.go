package front

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
)

// Bounds of one sweep: a case that takes its time keeps no other from its turn, and
// what has no time left is the next sweep's.
const (
	sweepAtOnce = 8
	sweepCase   = 2 * cases.StepDeadline
	sweepSpare  = 10 * time.Second
)

// Sweep has Advance called for the cases whose time has come. It alone must suffice.
func (f *Front) Sweep(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), cases.FunctionTimeout)
	defer cancel()
	n, err := f.sweep(ctx)
	serve.Reply(w, map[string]int{"due": n}, err)
}

// sweep answers how many cases were due. One that fails stays due, or is put off by
// whoever worked on it.
func (f *Front) sweep(ctx context.Context) (int, error) {
	due, ahead, err := f.Log.Due(ctx)
	if err != nil {
		return 0, err
	}
	before := map[caselog.Wake]bool{}
	for _, w := range ahead {
		before[w] = true
	}
	wakes, order := map[string][]caselog.Wake{}, []string(nil)
	for _, w := range due {
		if len(wakes[w.Case]) == 0 {
			order = append(order, w.Case)
		}
		wakes[w.Case] = append(wakes[w.Case], w)
	}
	errs := make([]error, len(order))
	var g errgroup.Group
	g.SetLimit(sweepAtOnce)
	for i, id := range order {
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < cases.StepDeadline {
			break
		}
		g.Go(func() error {
			errs[i] = f.sweepOne(ctx, id, wakes[id], before)
			return nil
		})
	}
	return len(order), errors.Join(append(errs, g.Wait())...)
}

// sweepOne advances a case once, however many wakes it has, and forgets those that
// were answered: a later one takes their place where something is left to do. A wake that
// lay ahead before puts nothing off: it is for something else.
func (f *Front) sweepOne(ctx context.Context, id string, wakes []caselog.Wake, before map[caselog.Wake]bool) error {
	turn, cancel := context.WithTimeout(ctx, sweepCase-sweepSpare)
	defer cancel()
	err := f.callAdvance(turn, id)
	if err != nil {
		_, ahead, lost := f.Log.Due(ctx)
		if lost != nil {
			return errors.Join(err, lost)
		}
		put := false
		for _, w := range ahead {
			put = put || w.Case == id && !before[w]
		}
		if !put {
			return err // the wakes stay
		}
	}
	for _, w := range wakes {
		err = errors.Join(err, f.Log.DeleteWake(ctx, w))
	}
	return err
}
