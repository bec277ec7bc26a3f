package contain

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Orders reaches the sensor of a node.
type Orders interface {
	// Carry hands an order over and waits for its outcome. The same order
	// again is carried out once.
	Execute(ctx context.Context, node string, o sensorapi.Order) (sensorapi.OrderStatus, error)
}

// OrderResource is where orders are objects.
var OrderResource = schema.GroupVersionResource{Group: sensorapi.OrderGroup, Version: sensorapi.OrderVersion, Resource: sensorapi.OrderPlural}

// patience is how long a sensor may take; one that is there needs milliseconds.
const patience = 15 * time.Second

// clusterOrders hands orders over as ContainmentOrder objects.
type clusterOrders struct {
	orders   dynamic.ResourceInterface
	patience time.Duration
	keep     bool // the object is to stay: it shows what is frozen
}

func (s *site) orders() Orders {
	wait := s.Patience
	if wait == 0 {
		wait = patience
	}
	return clusterOrders{orders: s.orderObjects(), patience: wait}
}

func (s *site) orderObjects() dynamic.ResourceInterface {
	return s.Dynamic.Resource(OrderResource).Namespace(sensorapi.OrderNamespace)
}

func (k clusterOrders) Execute(ctx context.Context, _ string, o sensorapi.Order) (sensorapi.OrderStatus, error) {
	o.Node = path.Base(o.Node)
	ours := ctx
	ctx, cancel := context.WithTimeout(ctx, k.patience)
	defer cancel()
	object, err := k.create(ctx, o)
	for err == nil {
		var s sensorapi.OrderStatus
		var answered bool
		if s, answered, err = statusOf(object); err != nil {
			return s, retry.Refused(err)
		}
		if answered {
			if !k.keep {
				k.forget(ctx, object)
			}
			return s, nil
		}
		object, err = k.next(ctx, object)
	}
	if ctx.Err() == nil {
		return sensorapi.OrderStatus{}, fmt.Errorf("order %q: %w", o.ID, err)
	}
	s, err := k.giveUp(context.WithoutCancel(ctx), o)
	if retry.IsRefused(err) && ours.Err() != nil { // the time that was up was our own
		return s, fmt.Errorf("order %q: %w", o.ID, ours.Err())
	}
	return s, err
}

func (k clusterOrders) create(ctx context.Context, o sensorapi.Order) (*unstructured.Unstructured, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, retry.Refused(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(body, &spec); err != nil {
		return nil, retry.Refused(err)
	}
	object, err := k.orders.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": OrderResource.GroupVersion().String(), "kind": sensorapi.OrderKind,
		"metadata": map[string]any{"name": o.ID, "labels": map[string]any{sensorapi.OrderNodeLabel: o.Node}},
		"spec":     spec,
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // an earlier try's: the answer may be there
		return k.orders.Get(ctx, o.ID, metav1.GetOptions{})
	}
	return object, err
}

// next waits for the object to change.
func (k clusterOrders) next(ctx context.Context, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	w, err := k.orders.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", object.GetName()).String(), ResourceVersion: object.GetResourceVersion(),
	})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if changed, ok := e.Object.(*unstructured.Unstructured); ok && e.Type == watch.Modified {
			return changed, nil
		}
		if e.Type == watch.Error || e.Type == watch.Deleted {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return k.orders.Get(ctx, object.GetName(), metav1.GetOptions{}) // the watch ended: see for ourselves
}

// giveUp takes the order back, so that no sensor carries it out when nobody
// expects it any more; one that was just carried out is believed.
func (k clusterOrders) giveUp(ctx context.Context, o sensorapi.Order) (sensorapi.OrderStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	object, err := k.orders.Get(ctx, o.ID, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return sensorapi.OrderStatus{}, k.untaken(o)
	}
	if err != nil {
		return sensorapi.OrderStatus{}, fmt.Errorf("order %q: %w", o.ID, err)
	}
	if s, answered, err := statusOf(object); err != nil || answered {
		return s, err
	}
	uid, version := object.GetUID(), object.GetResourceVersion()
	err = k.orders.Delete(ctx, o.ID, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
	if err != nil && !apierrors.IsNotFound(err) {
		return sensorapi.OrderStatus{}, fmt.Errorf("take back order %q: %w", o.ID, err)
	}
	return sensorapi.OrderStatus{}, k.untaken(o)
}

func (k clusterOrders) untaken(o sensorapi.Order) error {
	return retry.Refused(untaken{o.Node, k.patience})
}

// untaken is an order that was taken back: the same one can never be carried out, and
// another may be, once the sensor is there.
type untaken struct {
	node     string
	patience time.Duration
}

func (u untaken) Error() string {
	return fmt.Sprintf("the sensor of node %q has not taken the order within %s: it is not there, or cannot reach the API server", u.node, u.patience)
}

// forget removes an order that was answered; one that stays does no harm.
func (k clusterOrders) forget(ctx context.Context, object *unstructured.Unstructured) {
	_ = k.orders.Delete(ctx, object.GetName(), metav1.DeleteOptions{})
}

// statusOf returns the sensor's word, and whether it has spoken.
func statusOf(object *unstructured.Unstructured) (sensorapi.OrderStatus, bool, error) {
	raw, ok := object.Object["status"]
	if !ok {
		return sensorapi.OrderStatus{}, false, nil
	}
	body, err := json.Marshal(raw)
	if err != nil {
		return sensorapi.OrderStatus{}, false, err
	}
	var s sensorapi.OrderStatus
	if err := json.Unmarshal(body, &s); err != nil {
		return s, false, fmt.Errorf("order %q: read status: %w", object.GetName(), err)
	}
	return s, s.ID == object.GetName(), nil
}
