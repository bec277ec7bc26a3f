// Package httpcall makes one HTTP request to a notification service: bounded, without
// redirects, waiting out rate limits, its failures classified, no address or secret in
// its errors.
package httpcall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/contraband-dev/contraband/internal/retry"
)

// maxBody bounds what is read of an answer, in bytes.
const maxBody = 64 << 10

// defaultRetryAfter is waited when a 429 does not say for how long.
const defaultRetryAfter = 2 * time.Second

// Client returns a client that follows no redirect: a request carries secrets.
func Client() *http.Client {
	return &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Do sends the request that build returns, anew after each rate limit as long as ctx
// lasts, and returns the body of a 2xx answer.
func Do(ctx context.Context, client *http.Client, build func(context.Context) (*http.Request, error)) ([]byte, error) {
	for {
		body, after, err := once(ctx, client, build)
		if after == 0 {
			return body, err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < after {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(after):
		}
	}
}

// once sends one request; after is set when the rate is limited.
func once(ctx context.Context, client *http.Client, build func(context.Context) (*http.Request, error)) (body []byte, after time.Duration, err error) {
	req, err := build(ctx)
	if err != nil {
		return nil, 0, retry.Misconfigured(withoutURL(err))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, withoutURL(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if resp.StatusCode == http.StatusTooManyRequests {
		return nil, retryAfter(resp), fmt.Errorf("rate limited: HTTP status %d", resp.StatusCode)
	}
	if resp.StatusCode/100 == 2 {
		return body, 0, err
	}
	return nil, 0, Classify(resp.StatusCode, fmt.Errorf("HTTP status %d", resp.StatusCode))
}

// Classify marks an error with the class of an HTTP status.
func Classify(status int, err error) error {
	switch {
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return err // transient
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusUnprocessableEntity:
		return retry.Refused(err)
	}
	return retry.Misconfigured(err)
}

func retryAfter(resp *http.Response) time.Duration {
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 1 {
		return defaultRetryAfter
	}
	return time.Duration(seconds) * time.Second
}

// withoutURL removes the address from an error: it may carry a key.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
