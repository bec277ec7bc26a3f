package casebook

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
	"github.com/contraband-dev/contraband/internal/web"
)

// Identity-Aware Proxy signs the visitor's identity. Its plain headers are not used:
// anybody who reaches the function directly can set them.
const (
	iapAssertion = "X-Goog-IAP-JWT-Assertion"
	iapIssuer    = "https://cloud.google.com/iap"
)

// visitors returns who a visitor is and whether they may click.
func visitors(ctx context.Context, f *casefunc.Base, audience string, iap *http.Client) (web.Visitors, error) {
	v := web.Visitors{May: f.IsApprover}
	if audience == "" {
		return v, nil
	}
	var options []idtoken.ClientOption
	if iap != nil {
		options = append(options, option.WithHTTPClient(iap))
	}
	validator, err := idtoken.NewValidator(ctx, options...)
	if err != nil {
		return v, fmt.Errorf("verify visitors: %w", err)
	}
	v.Who = func(r *http.Request) (string, error) {
		p, err := validator.Validate(r.Context(), r.Header.Get(iapAssertion), audience)
		if err != nil {
			return "", fmt.Errorf("Identity-Aware Proxy assertion is invalid: %w", err) //nolint:staticcheck // a name
		}
		mail, _ := p.Claims["email"].(string)
		if p.Issuer != iapIssuer || mail == "" {
			return "", errors.New("Identity-Aware Proxy assertion has no e-mail address") //nolint:staticcheck // a name
		}
		return mail, nil
	}
	return v, nil
}
