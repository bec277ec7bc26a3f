package owner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	essentialcontacts "cloud.google.com/go/essentialcontacts/apiv1"
	"cloud.google.com/go/essentialcontacts/apiv1/essentialcontactspb"
	"cloud.google.com/go/iam/apiv1/iampb"
	resourcemanager "cloud.google.com/go/resourcemanager/apiv3"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

// cacheFor is how long an answer about a project is kept.
const cacheFor = 10 * time.Minute

// projects caches what a source says of a project.
type projects struct {
	mu    sync.Mutex
	known map[string]remembered
}

type remembered struct {
	owners []cases.OwnerContact
	at     time.Time
}

func (p *projects) of(project string, ask func() ([]cases.OwnerContact, error)) ([]cases.OwnerContact, error) {
	p.mu.Lock()
	r, ok := p.known[project]
	p.mu.Unlock()
	if ok && time.Since(r.at) < cacheFor {
		return r.owners, nil
	}
	owners, err := ask()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[string]remembered{}
	}
	p.known[project] = remembered{owners, time.Now()}
	return owners, nil
}

// EssentialContacts asks for the contacts of a project and what it inherits from. It
// needs roles/essentialcontacts.viewer.
type EssentialContacts struct {
	client *essentialcontacts.Client
	cache  projects
}

// NewEssentialContacts connects to the Essential Contacts API.
func NewEssentialContacts(ctx context.Context, options ...option.ClientOption) (*EssentialContacts, error) {
	client, err := essentialcontacts.NewClient(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to Essential Contacts: %w", err)
	}
	return &EssentialContacts{client: client}, nil
}

// Close ends the connection.
func (e *EssentialContacts) Close() error { return e.client.Close() }

// Name returns what is asked.
func (e *EssentialContacts) Name() string { return "Essential Contacts" }

// categories that are asked for, the better first.
var categories = []essentialcontactspb.NotificationCategory{
	essentialcontactspb.NotificationCategory_SECURITY, essentialcontactspb.NotificationCategory_TECHNICAL,
}

// Owners returns the security contacts, then the technical ones.
func (e *EssentialContacts) Owners(ctx context.Context, f finding.Finding) ([]cases.OwnerContact, error) {
	if f.Project == "" {
		return nil, nil
	}
	return e.cache.of(f.Project, func() ([]cases.OwnerContact, error) {
		var out []cases.OwnerContact
		for _, category := range categories {
			it := e.client.ComputeContacts(ctx, &essentialcontactspb.ComputeContactsRequest{
				Parent: "projects/" + f.Project, NotificationCategories: []essentialcontactspb.NotificationCategory{category}})
			for range maxPerSource {
				c, err := it.Next()
				if errors.Is(err, iterator.Done) {
					break
				}
				if err != nil {
					return nil, err
				}
				out = append(out, cases.OwnerContact{Name: c.GetEmail(), Source: "Essential Contacts (" + strings.ToLower(category.String()) + ")"})
			}
		}
		return out, nil
	})
}

// ProjectOwners asks for the members of a project's Owner role. It needs
// resourcemanager.projects.getIamPolicy, which also shows every other member.
type ProjectOwners struct {
	client *resourcemanager.ProjectsClient
	cache  projects
}

// NewProjectOwners connects to the Resource Manager API.
func NewProjectOwners(ctx context.Context, options ...option.ClientOption) (*ProjectOwners, error) {
	client, err := resourcemanager.NewProjectsClient(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to Resource Manager: %w", err)
	}
	return &ProjectOwners{client: client}, nil
}

// Close ends the connection.
func (p *ProjectOwners) Close() error { return p.client.Close() }

// Name returns what is asked.
func (p *ProjectOwners) Name() string { return "the project's Owner role" }

// Owners returns the people and groups that have roles/owner without a condition.
func (p *ProjectOwners) Owners(ctx context.Context, f finding.Finding) ([]cases.OwnerContact, error) {
	if f.Project == "" {
		return nil, nil
	}
	return p.cache.of(f.Project, func() ([]cases.OwnerContact, error) {
		policy, err := p.client.GetIamPolicy(ctx, &iampb.GetIamPolicyRequest{
			Resource: "projects/" + f.Project, Options: &iampb.GetPolicyOptions{RequestedPolicyVersion: 3}})
		if err != nil {
			return nil, err
		}
		var out []cases.OwnerContact
		for _, b := range policy.GetBindings() {
			if b.GetRole() != "roles/owner" || b.GetCondition() != nil {
				continue
			}
			for _, member := range slices.Sorted(slices.Values(b.GetMembers())) {
				kind, name, _ := strings.Cut(member, ":")
				if kind == "user" || kind == "group" {
					out = append(out, cases.OwnerContact{Name: name, Source: "project Owner"})
				}
			}
		}
		return out, nil
	})
}
