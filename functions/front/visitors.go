package front

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/internal/casebook"
)

// Identity-Aware Proxy signs who a visitor is; its plain headers anybody can write
// who reaches the function past it.
const (
	iapAssertion = "X-Goog-IAP-JWT-Assertion"
	iapIssuer    = "https://cloud.google.com/iap"
)

// mayPress tells whether somebody is among those who may; id is a Slack user's or an
// e-mail address.
func (f *Front) mayPress(id string) bool {
	return len(f.Config.Approvers) == 0 || slices.Contains(f.Config.Approvers, id)
}

// visitors of the casebook.
func (f *Front) visitors(ctx context.Context) (casebook.Visitors, error) {
	v := casebook.Visitors{May: f.mayPress}
	if f.Config.IAPAudience == "" {
		return v, nil
	}
	var options []idtoken.ClientOption
	if f.Parts.IAP != nil {
		options = append(options, option.WithHTTPClient(f.Parts.IAP))
	}
	validator, err := idtoken.NewValidator(ctx, options...)
	if err != nil {
		return v, fmt.Errorf("verify visitors: %w", err)
	}
	v.Who = func(r *http.Request) (string, error) {
		p, err := validator.Validate(r.Context(), r.Header.Get(iapAssertion), f.Config.IAPAudience)
		if err != nil {
			return "", fmt.Errorf("Identity-Aware Proxy does not vouch for you: %w", err) //nolint:staticcheck // a name
		}
		mail, _ := p.Claims["email"].(string)
		if p.Issuer != iapIssuer || mail == "" {
			return "", errors.New("Identity-Aware Proxy does not say who you are") //nolint:staticcheck // a name
		}
		return mail, nil
	}
	return v, nil
}
