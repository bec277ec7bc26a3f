// Package retry classifies failures: transient, misconfigured, refused. A transient
// failure is returned to the caller that delivered the work, which delivers it again; the
// others are recorded and the work acknowledged.
package retry

import "errors"

type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// Refused marks an error as one that repeating the same content cannot mend; nil stays nil.
func Refused(err error) error {
	if err == nil {
		return nil
	}
	return refused{err}
}

// IsRefused reports whether an error, or one that it wraps, was so marked.
func IsRefused(err error) bool {
	var r refused
	return errors.As(err, &r)
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

// Misconfigured marks an error as one that a person has to fix; nil stays nil.
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
