package cluster

import (
	"context"
	"io"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Kube is a client of the kinds that we touch, on client-go's REST client. Its clientset
// registers every type of every API when a program starts, and that was a quarter of
// what a function held.
type Kube struct{ rest rest.Interface }

// NewKube makes a client.
func NewKube(config *rest.Config) (*Kube, error) {
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion, c.NegotiatedSerializer = "/", &version, serializer.NewCodecFactory(kinds).WithoutConversion()
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, err
	}
	return &Kube{r}, nil
}

var (
	version    = schema.GroupVersion{Version: "v1"} // of options
	kinds      = scheme()
	parameters = runtime.NewParameterCodec(kinds)
)

func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic(err) // of types of one release
		}
	}
	return s
}

type object[T any] interface {
	*T
	runtime.Object
}

// request on a kind's objects, in a namespace where the kind has one.
func request(r *rest.Request, api, resource, namespace string) *rest.Request {
	return r.AbsPath(api).NamespaceIfScoped(namespace, namespace != "").Resource(resource)
}

// get reads one object of a kind that is only ever read by name.
func get[T any, PT object[T]](ctx context.Context, k *Kube, api, resource, namespace, name string) (*T, error) {
	t := new(T)
	return t, request(k.rest.Get(), api, resource, namespace).Name(name).Do(ctx).Into(PT(t))
}

// Objects are those of one kind. L is a list of T.
type Objects[T, L any, PT object[T], PL object[L]] struct {
	kube                     *Kube
	api, resource, namespace string
}

func (o Objects[T, L, PT, PL]) on(r *rest.Request) *rest.Request {
	return request(r, o.api, o.resource, o.namespace)
}

// Get reads one.
func (o Objects[T, L, PT, PL]) Get(ctx context.Context, name string) (*T, error) {
	return get[T, PT](ctx, o.kube, o.api, o.resource, o.namespace, name)
}

// List reads all that the options select.
func (o Objects[T, L, PT, PL]) List(ctx context.Context, opts metav1.ListOptions) (*L, error) {
	l := new(L)
	return l, o.on(o.kube.rest.Get()).SpecificallyVersionedParams(&opts, parameters, version).Do(ctx).Into(PL(l))
}

// Create makes one.
func (o Objects[T, L, PT, PL]) Create(ctx context.Context, t *T, opts metav1.CreateOptions) error {
	return o.on(o.kube.rest.Post()).SpecificallyVersionedParams(&opts, parameters, version).Body(PT(t)).Do(ctx).Error()
}

// Patch changes one, and returns what it then is.
func (o Objects[T, L, PT, PL]) Patch(ctx context.Context, name string, kind types.PatchType, body []byte, opts metav1.PatchOptions) (*T, error) {
	t := new(T)
	return t, o.on(o.kube.rest.Patch(kind)).Name(name).SpecificallyVersionedParams(&opts, parameters, version).Body(body).Do(ctx).Into(PT(t))
}

// Delete removes one.
func (o Objects[T, L, PT, PL]) Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	return o.on(o.kube.rest.Delete()).Name(name).Body(&opts).Do(ctx).Error()
}

const core, apps = "/api/v1", "/apis/apps/v1"

// The kinds, each with its list.
type (
	pods            = Objects[corev1.Pod, corev1.PodList, *corev1.Pod, *corev1.PodList]
	nodes           = Objects[corev1.Node, corev1.NodeList, *corev1.Node, *corev1.NodeList]
	namespaces      = Objects[corev1.Namespace, corev1.NamespaceList, *corev1.Namespace, *corev1.NamespaceList]
	events          = Objects[corev1.Event, corev1.EventList, *corev1.Event, *corev1.EventList]
	budgets         = Objects[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList, *policyv1.PodDisruptionBudget, *policyv1.PodDisruptionBudgetList]
	networkPolicies = Objects[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList, *networkingv1.NetworkPolicy, *networkingv1.NetworkPolicyList]
	endpointSlices  = Objects[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList, *discoveryv1.EndpointSlice, *discoveryv1.EndpointSliceList]
)

// Nodes of the cluster.
func (k *Kube) Nodes() nodes { return nodes{k, core, "nodes", ""} }

// Namespaces of the cluster.
func (k *Kube) Namespaces() namespaces { return namespaces{k, core, "namespaces", ""} }

// Events of a namespace.
func (k *Kube) Events(namespace string) events { return events{k, core, "events", namespace} }

// PodDisruptionBudgets of a namespace.
func (k *Kube) PodDisruptionBudgets(namespace string) budgets {
	return budgets{k, "/apis/policy/v1", "poddisruptionbudgets", namespace}
}

// NetworkPolicies of a namespace.
func (k *Kube) NetworkPolicies(namespace string) networkPolicies {
	return networkPolicies{k, "/apis/networking.k8s.io/v1", "networkpolicies", namespace}
}

// EndpointSlices of a namespace.
func (k *Kube) EndpointSlices(namespace string) endpointSlices {
	return endpointSlices{k, "/apis/discovery.k8s.io/v1", "endpointslices", namespace}
}

// Pods can also be evicted, and have logs.
type Pods struct{ pods }

// Pods of a namespace.
func (k *Kube) Pods(namespace string) Pods { return Pods{pods{k, core, "pods", namespace}} }

// Evict asks the Eviction API once: a 429 would otherwise be tried again silently, for
// as long as the context lasts.
func (p Pods) Evict(ctx context.Context, e *policyv1.Eviction) error {
	return p.on(p.kube.rest.Post()).Name(e.Name).SubResource("eviction").Body(e).MaxRetries(0).Do(ctx).Error()
}

// Log streams a container's log.
func (p Pods) Log(ctx context.Context, name string, opts corev1.PodLogOptions) (io.ReadCloser, error) {
	return p.on(p.kube.rest.Get()).Name(name).SubResource("log").SpecificallyVersionedParams(&opts, parameters, version).Stream(ctx)
}
