package testcluster

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// EnforcePolicies plays a NetworkPolicy engine, which cannot be had here: pods that
// a deny-all policy selects are cut off by nftables. Other policies are taken to
// allow. It proves which pods label and policy select, not that a given dataplane
// enforces them.
func (c *Cluster) EnforcePolicies() {
	done := make(chan struct{})
	c.t.Cleanup(func() { close(done) })
	go func() {
		last := ""
		for {
			if rules, err := c.rules(); err == nil && rules != last {
				cmd := exec.Command("nft", "-f", "-")
				cmd.Stdin = strings.NewReader(rules)
				if cmd.Run() == nil {
					last = rules
				}
			}
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
}

func (c *Cluster) rules() (string, error) {
	pods, err := c.Admin.CoreV1().Pods("").List(c.ctx(), metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	policies, err := c.Admin.NetworkingV1().NetworkPolicies("").List(c.ctx(), metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var in, out []string
	for _, p := range pods.Items {
		if p.Status.PodIP == "" || p.Spec.HostNetwork {
			continue
		}
		i, o := denied(p, policies.Items)
		if i {
			in = append(in, p.Status.PodIP)
		}
		if o {
			out = append(out, p.Status.PodIP)
		}
	}
	set := func(name string, elements []string) string {
		slices.Sort(elements)
		if len(elements) == 0 {
			return fmt.Sprintf("set %s { type ipv4_addr; }\n", name)
		}
		return fmt.Sprintf("set %s { type ipv4_addr; elements = { %s } }\n", name, strings.Join(elements, ", "))
	}
	// Pod to pod is forwarded; pod to node is input; node to pod stays open, as everywhere.
	return "table inet policies\ndelete table inet policies\ntable inet policies {\n" + set("in", in) + set("out", out) +
		"chain forward { type filter hook forward priority -10; ip daddr @in drop; ip saddr @out drop; }\n" +
		"chain input { type filter hook input priority -10; ct direction reply accept; ip saddr @out drop; }\n}\n", nil
}

func denied(p corev1.Pod, policies []networkingv1.NetworkPolicy) (in, out bool) {
	for _, n := range policies {
		selector, err := metav1.LabelSelectorAsSelector(&n.Spec.PodSelector)
		if err != nil || n.Namespace != p.Namespace || !selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		in = in || slices.Contains(n.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) && len(n.Spec.Ingress) == 0
		out = out || slices.Contains(n.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) && len(n.Spec.Egress) == 0
	}
	return in, out
}
