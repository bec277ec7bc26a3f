package cluster

import (
	"reflect"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// QuarantineLabel is on an isolated pod; its value is the case.
	QuarantineLabel = "contraband.dev/quarantine"
	// QuarantinePolicy is the name of the NetworkPolicy that cuts off what is
	// quarantined in a namespace.
	QuarantinePolicy = "contraband-quarantine"
)

// Quarantine is what that policy says: nothing in, nothing out.
func Quarantine() networkingv1.NetworkPolicySpec {
	return networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: QuarantineLabel, Operator: metav1.LabelSelectorOpExists}}},
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
	}
}

// IsQuarantine reports whether a policy says that.
func IsQuarantine(spec networkingv1.NetworkPolicySpec) bool {
	return reflect.DeepEqual(spec, Quarantine())
}
