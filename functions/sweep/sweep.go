// Package sweep owns the function that the scheduler calls every minute:
//
//	Sweep  HTTP -> advances the cases that are due
package sweep

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
)

// Bounds of one sweep: a slow case must not delay others, and cases for which no time is
// left are due again in the next sweep.
const (
	sweepAtOnce = 8
	sweepCase   = 2 * cases.StepDeadline
	sweepSpare  = 10 * time.Second
)

// Function is the deployed function.
type Function struct{ *casefunc.Base }

// New opens the case store.
func New(ctx context.Context, cfg casefunc.Config, parts casefunc.Parts) (Function, error) {
	base, err := casefunc.New(ctx, cfg, parts)
	return Function{base}, err
}

// Register registers the function with the framework.
func Register() {
	p := funcserver.NewProgram(func(ctx context.Context, c casefunc.Config) (Function, error) {
		return New(ctx, c, casefunc.Parts{})
	})
	p.Web("Sweep", Function.Sweep)
}

// Sweep calls Advance for each case that is due. Cases must make progress with Sweep
// alone: everything else only makes it faster.
func (f Function) Sweep(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), cases.FunctionTimeout)
	defer cancel()
	n, err := f.sweep(ctx)
	funcserver.Reply(w, map[string]int{"due": n}, err)
}

// sweep returns how many cases were due. A case that fails stays due, unless Advance has
// set a later wake for it.
func (f Function) sweep(ctx context.Context) (int, error) {
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

// sweepOne advances a case once, whatever the number of its wakes, and deletes them:
// Advance sets a later wake if there is more to do. A failed case keeps its wakes unless
// Advance has set a new one to try again. A wake that existed before, or that is further
// ahead than a retry can be, is for another step.
func (f Function) sweepOne(ctx context.Context, id string, wakes []caselog.Wake, before map[caselog.Wake]bool) error {
	turn, cancel := context.WithTimeout(ctx, sweepCase-sweepSpare)
	defer cancel()
	err := f.CallAdvance(turn, id)
	if err != nil {
		_, ahead, lost := f.Log.Due(ctx)
		if lost != nil {
			return errors.Join(err, lost)
		}
		soon := f.Log.Clock().Add(cases.LongestRetry + time.Minute)
		retried := slices.ContainsFunc(ahead, func(w caselog.Wake) bool { return w.Case == id && !before[w] && w.At.Before(soon) })
		if !retried {
			return err // the wakes stay
		}
	}
	for _, w := range wakes {
		err = errors.Join(err, f.Log.DeleteWake(ctx, w))
	}
	return err
}
