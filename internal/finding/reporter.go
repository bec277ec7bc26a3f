package finding

import (
	"fmt"
	"strings"
)

// Reporter is who reports a finding. A finding of any other reporter than Google's container
// detectors and our own source may notify people, and contains nothing. The strings are
// stored, and part of the policy language.
type Reporter string

const (
	ReporterOurs   Reporter = "ours"
	ReporterGoogle Reporter = "google"
	ReporterOther  Reporter = "other"
)

// Trusted reports whether findings of this reporter may lead to containment. Cases of
// earlier versions recorded none, and were decided without it.
func (r Reporter) Trusted() bool { return r != ReporterOther }

// Sources are the SCC sources that are trusted.
type Sources struct {
	// Ours is the name of our own source; "" where none is configured.
	Ours string
	// Detectors are the names of the sources of Google's container detectors. Empty: they
	// are recognised by display name and class, which an administrator of SCC sources can
	// imitate.
	Detectors []string
}

// localSource is the ID of the source that Raise writes where no SCC source is
// configured. SCC gives sources numbers alone, so no other source has this ID.
const localSource = "contraband"

// ReporterOf returns who reports a finding, by its source and class.
func (s Sources) ReporterOf(f Finding) Reporter {
	switch {
	case s.Ours != "" && f.In(s.Ours), s.Ours == "" && part(f.source(), "sources") == localSource:
		return ReporterOurs
	case f.Class != ClassThreat && f.Class != ClassError:
		return ReporterOther
	case len(s.Detectors) == 0 && isDetector(f.Detector):
		return ReporterGoogle
	}
	for _, d := range s.Detectors {
		if f.In(d) {
			return ReporterGoogle
		}
	}
	return ReporterOther
}

// maxReporter bounds a source's name in messages, in bytes.
const maxReporter = 120

// Reporter returns who reports the finding, as people know it: the display name of its
// source, quoted where the source is not trusted, as anybody may choose any name.
func (f Finding) ReporterName() string {
	name := or(f.Detector, f.source(), "an unnamed source")
	name = strings.ToValidUTF8(name[:min(len(name), maxReporter)], "")
	if f.ReportedBy.Trusted() {
		return name
	}
	id := f.source()
	return fmt.Sprintf("%q (%.*s)", name, maxReporter, id)
}

// In reports whether the finding is in a source, which may be named with or without its
// location, and by the organisation or a project below it.
func (f Finding) In(source string) bool {
	id, of := part(source, "sources"), f.source()
	if id == "" || part(of, "sources") != id {
		return false
	}
	a, b := part(source, "organizations"), part(of, "organizations")
	return a == "" || b == "" || a == b
}

// source returns the source that the finding is in.
func (f Finding) source() string {
	if f.Parent != "" {
		return f.Parent
	}
	source, _, _ := strings.Cut(f.Name, "/findings/")
	return source
}
