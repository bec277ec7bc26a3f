package main

import (
	"errors"
	"strings"

	"github.com/contraband-dev/contraband/internal/local"
)

// Exit statuses. Scripts rely on them.
const (
	exitFailure     = 1 // the command failed
	exitUsage       = 2 // unknown command or flag, or a missing argument
	exitNotFound    = 3 // no such case
	exitUnreachable = 4 // no `contraband up` is running, or the casebook cannot be reached
	exitRefused     = 5 // what was asked for was refused, and why is on standard error
)

// exitStatus returns the exit status for an error.
func exitStatus(err error) int {
	switch {
	case errors.Is(err, errUsage), isUsageError(err):
		return exitUsage
	case errors.Is(err, local.ErrNotFound):
		return exitNotFound
	case errors.Is(err, local.ErrNotRunning), errors.Is(err, local.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, local.ErrRefused):
		return exitRefused
	}
	return exitFailure
}

// errUsage marks errors in how a command was called.
var errUsage = errors.New("wrong usage")

// usageErrors begin the errors that cobra returns without a type.
var usageErrors = []string{"unknown command ", "accepts ", "requires at least ", "invalid argument "}

func isUsageError(err error) bool {
	for _, prefix := range usageErrors {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}
