package caselog

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// An episode is one burst of a workload: it is active for ActiveFor after the last
// finding and at most MaxEpisode. Its name is the time of its beginning, rounded down to
// ActiveFor: two episodes of a workload never begin in the same interval, and two
// deliveries that race for the first one choose the same name.
const (
	ActiveFor  = 15 * time.Minute
	MaxEpisode = 24 * time.Hour

	episodeForm = "0601021504"
	markForm    = "2006010215.04"
)

// Episode returns the active episode of a workload at a time, or the name of a new one.
func (l *Store) Episode(ctx context.Context, workload string, at time.Time) (string, error) {
	at = at.UTC()
	marks := make([][]string, 3)
	g, gctx := errgroup.WithContext(ctx)
	for i := range marks { // another instance's clock may be ahead
		hour := at.Add(time.Duration(i-1) * time.Hour).Format("2006010215")
		g.Go(func() (err error) {
			marks[i], err = l.Objects.List(gctx, "findings/active/"+workload+"/"+hour)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	for _, key := range slices.Backward(slices.Concat(marks...)) {
		seen, episode, err := parseMark(path.Base(key))
		if err != nil || seen.Before(at.Truncate(time.Minute).Add(-ActiveFor)) {
			continue
		}
		if began, err := EpisodeStart(episode); err == nil && at.Sub(began) < MaxEpisode {
			return episode, nil
		}
	}
	return at.Truncate(ActiveFor).Format(episodeForm), nil
}

// EpisodeStart returns when an episode began.
func EpisodeStart(episode string) (time.Time, error) { return time.Parse(episodeForm, episode) }

func parseMark(name string) (seen time.Time, episode string, err error) {
	if len(name) <= len(markForm) {
		return seen, "", fmt.Errorf("mark %q is too short", name)
	}
	seen, err = time.Parse(markForm, name[:len(markForm)])
	return seen, strings.TrimPrefix(name[len(markForm):], "."), err
}

// MarkActive records that a workload was seen at a time, once a minute.
func (l *Store) MarkActive(ctx context.Context, workload, episode string, at time.Time) error {
	key := "findings/active/" + workload + "/" + at.UTC().Format(markForm) + "." + episode
	return ignoreExists(l.Objects.Create(ctx, key, nil))
}

// IncidentID returns the ID of a workload's incident in an episode.
func IncidentID(workload, episode string) string { return IncidentPrefix + workload + "-" + episode }

// Member keys of an incident: its cases, and verdicts that a busy case has not recorded yet.
func memberPrefix(incidentID string) string { return "occurrences/" + baseIncident(incidentID) + "/" }

// AddMember records that a case is part of an incident.
func (l *Store) AddMember(ctx context.Context, incidentID, caseID string) error {
	return ignoreExists(l.Objects.Create(ctx, memberPrefix(incidentID)+"case-"+caseID+".json", nil))
}

// AddSighting records what a finding's delivery learnt while another held its case.
func (l *Store) AddSighting(ctx context.Context, incidentID, findingKey string, body []byte) error {
	return ignoreExists(l.Objects.Create(ctx, memberPrefix(incidentID)+"seen-"+findingKey+".json", body))
}

// Members returns the cases of an incident, and its sightings.
func (l *Store) Members(ctx context.Context, incidentID string) (caseIDs []string, sightings []Entry, err error) {
	keys, err := l.Objects.List(ctx, memberPrefix(incidentID))
	if err != nil {
		return nil, nil, err
	}
	var seen []string
	for _, key := range keys {
		name := entryName(key)
		if id, ok := strings.CutPrefix(name, "case-"); ok {
			caseIDs = append(caseIDs, id)
		} else if strings.HasPrefix(name, "seen-") {
			seen = append(seen, key)
		}
	}
	sightings, err = l.readEntries(ctx, seen)
	return caseIDs, sightings, err
}

// PagesIn returns how many incidents were paged in a slot of time, but for one.
func (l *Store) PagesIn(ctx context.Context, slot, exceptIncident string) (int, error) {
	keys, err := l.Objects.List(ctx, "findings/pages/"+slot+"/")
	others := slices.DeleteFunc(keys, func(key string) bool { return path.Base(key) == exceptIncident })
	return len(others), err
}

// CountPage records that an incident is paged in a slot of time.
func (l *Store) CountPage(ctx context.Context, slot, incidentID string) error {
	return ignoreExists(l.Objects.Create(ctx, "findings/pages/"+slot+"/"+incidentID, nil))
}
