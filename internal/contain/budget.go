package contain

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/policy/guards"
)

// overBudget wins slots of the hour for the pod, the same ones again for the same pod, or
// returns which budget is spent. workload is "" where it is not known.
func (t task) overBudget(ctx context.Context, workload string) (string, error) {
	f, hour := t.kase.Decided.Finding, t.Now().UTC().Format("2006-01-02T15")
	who := cmp.Or(t.claim.PodUID, t.claim.ContainerID) // two cases of one pod are one
	place := strings.Join([]string{f.Project, f.Location, f.Cluster}, "/")
	budgets := []budget{
		{"workload", workload, t.Guards.MaxPerWorkloadPerHour, fmt.Sprintf("pods of %s (guards.max_per_workload_per_hour)", workload)},
		{"cluster", place, t.Guards.MaxContainmentsPerHour, "pods of the cluster (guards.max_containments_per_hour)"},
		{"all", "all clusters", t.Guards.MaxAllClustersPerHour, "pods of all clusters (guards.max_all_clusters_per_hour)"},
	}
	budgets = slices.DeleteFunc(budgets, func(b budget) bool { return b.of == "" })
	// All are looked at before a slot of one is taken: what another budget refuses must not
	// spend this one.
	free, err := t.free(ctx, budgets, hour, who)
	if err != nil {
		return "", err
	}
	if i := slices.Index(free, false); i >= 0 {
		return t.spent(budgets[i]), nil
	}
	for _, b := range budgets {
		ok, err := t.winSlot(ctx, b.prefix(hour), b.size, who)
		if err != nil {
			return "", err
		}
		if !ok { // another was faster
			return t.spent(b), nil
		}
	}
	return "", nil
}

// budget is a number of containments an hour.
type budget struct {
	name, of string // of: what it is of; "": that is not known
	size     guards.Budget
	spent    string // what is said when it is spent
}

func (b budget) prefix(hour string) string {
	sum := sha256.Sum256([]byte(b.of))
	return fmt.Sprintf("budgets/%s/%s/%x", b.name, hour, sum[:8])
}

// free reports for each budget whether it seems to have a slot for the pod. Another may take
// it meanwhile.
func (t task) free(ctx context.Context, budgets []budget, hour, who string) ([]bool, error) {
	out := make([]bool, len(budgets))
	g, ctx := errgroup.WithContext(ctx)
	for i, b := range budgets {
		g.Go(func() (err error) {
			out[i], err = t.hasSlot(ctx, b.prefix(hour), b.size, who)
			return err
		})
	}
	return out, g.Wait()
}

func (t task) hasSlot(ctx context.Context, prefix string, size guards.Budget, who string) (bool, error) {
	keys, err := t.Log.Objects.List(ctx, prefix+"/")
	if err != nil {
		return false, err
	}
	open := int(size)
	if !t.certain() {
		open -= size.Reserve()
	}
	taken := 0
	for _, key := range keys {
		if n, err := strconv.Atoi(path.Base(key)); err == nil && n < open {
			taken++
		}
	}
	if taken < open {
		return true, nil
	}
	for _, key := range keys { // its own will do
		holder, err := t.Log.Objects.Read(ctx, key)
		if err != nil {
			return false, err
		}
		if string(holder) == who {
			return true, nil
		}
	}
	return false, nil
}

// winSlot wins one of a budget's slots. The last are kept for what is certain, so that
// decoys, which anybody can make run, do not spend the whole hour.
func (t task) winSlot(ctx context.Context, prefix string, budget guards.Budget, who string) (bool, error) {
	kept := budget.Reserve()
	ok, err := t.slot(ctx, prefix, 0, int(budget)-kept, who)
	if err != nil || ok || !t.certain() {
		return ok, err
	}
	return t.slot(ctx, prefix, int(budget)-kept, kept, who)
}

// certain reports whether the containment may use what is kept back: an indicator source
// knows a program of the case to be malicious, and it is none of our own harmless ones,
// which anybody can copy; or a person contains.
func (t task) certain() bool {
	malicious := func(sum string, v cases.Verdict) bool {
		_, harmless := canary.Known()[sum]
		return v.Level == cases.Malicious && !harmless
	}
	d := t.kase.Decided
	return t.clicked(cases.ActionContain) || malicious(d.Finding.Process.SHA256, d.Verdict) ||
		slices.ContainsFunc(t.kase.Programs, func(p cases.Program) bool { return malicious(p.SHA256, p.Verdict) })
}

// spent says that a budget is.
func (t task) spent(b budget) string {
	why := fmt.Sprintf("%d %s were contained in this hour already", b.size, b.spent)
	if kept := b.size.Reserve(); kept > 0 && !t.certain() {
		why += fmt.Sprintf(", but for %d that are kept for known malware", kept)
	}
	return why
}

// nextHour is what becomes of an action whose budget is spent: it is not forgotten.
func (t task) nextHour(why string) cases.Outcome {
	t.acted.RetryAt, t.acted.OverBudget = t.Now().UTC().Truncate(time.Hour).Add(time.Hour+time.Second), true
	return t.failed("refused: " + why)
}

// slot creates a free one of n keys from first on; a key that is who's already will do. Each
// looks from a place of its own on, so that a large budget is not searched from its start.
func (t task) slot(ctx context.Context, prefix string, first, n int, who string) (bool, error) {
	sum := sha256.Sum256([]byte(who))
	from := int(binary.BigEndian.Uint32(sum[:]))
	for i := range n {
		key := fmt.Sprintf("%s/%d", prefix, first+(from+i)%n)
		err := t.Log.Objects.Create(ctx, key, []byte(who))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, blobstore.ErrExists) {
			return false, err
		}
		holder, err := t.Log.Objects.Read(ctx, key)
		if err != nil {
			return false, err
		}
		if string(holder) == who {
			return true, nil
		}
	}
	return false, nil
}
