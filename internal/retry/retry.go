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
