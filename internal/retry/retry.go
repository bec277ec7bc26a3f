// Package retry owns one distinction: a failure that may pass and one that
// will not. A transient failure is returned to whoever delivered the work, who
// delivers it again; a permanent one is recorded and the work acknowledged.
package retry

import "errors"

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error as one that no repetition will mend.
func Refused(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// IsPermanent tells whether an error, or one that it wraps, was so marked.
func IsRefused(err error) bool {
	var p permanent
	return errors.As(err, &p)
}

// Class of a failure.
type Class int

// Classes of failures: Transient is repeated soon; Misconfigured (a token, a role, a
// channel) is repeated for days with growing pauses, because a person has to mend its
// cause; RefusedContent is never repeated with the same content.
const (
	Transient Class = iota
	MisconfiguredClass
	RefusedClass
)

// String returns the class in lower case.
func (c Class) String() string { return [...]string{"transient", "misconfigured", "refused"}[c] }

type misconfigured struct{ error }

func (m misconfigured) Unwrap() error { return m.error }

// Misconfigured marks an error as one that somebody has to mend; nil stays nil.
func Misconfigured(err error) error {
	if err == nil {
		return nil
	}
	return misconfigured{err}
}

// IsMisconfigured reports whether an error, or one that it wraps, was so marked.
func IsMisconfigured(err error) bool {
	var m misconfigured
	return errors.As(err, &m)
}

// ClassOf returns the class of an error; one that nothing has classified is transient.
func ClassOf(err error) Class {
	switch {
	case IsMisconfigured(err):
		return MisconfiguredClass
	case IsRefused(err):
		return RefusedClass
	}
	return Transient
}
