package cases

import "slices"

// Actions that a policy can ask for. On a machine without Kubernetes Contain
// carries out Freeze and Evidence alone.
const (
	Escalate = "escalate"
	Page     = "page"
	Freeze   = "freeze"   // the container's processes stop, memory intact
	Evidence = "evidence" // what ran, and what it ran in, is saved
	Isolate  = "isolate"  // the pod is out of every Service, controller and network
	Cordon   = "cordon"   // its node takes no more pods, and is not removed
	Evict    = "evict"    // the pod goes, disruption budgets honoured
	Delete   = "delete"   // the pod goes
)

// The undoing of what can be undone; never asked for by a policy.
const (
	Thaw     = "thaw"
	Release  = "release"
	Uncordon = "uncordon"
)

// Containments are the actions that Contain carries out, in the order in which
// it does, whatever the order in a policy: by what each would destroy for those
// after it.
var Containments = []string{Freeze, Evidence, Isolate, Cordon, Evict, Delete}

// ByHand is what a click on ActionContain does: it can be undone, or destroys nothing.
var ByHand = []string{Freeze, Evidence}

var undoOf = map[string]string{Freeze: Thaw, Isolate: Release, Cordon: Uncordon}

// UndoOf returns the action that undoes another, or "".
func UndoOf(action string) string { return undoOf[action] }

// UndoneBy returns the action that another undoes, or "".
func UndoneBy(undo string) string {
	for action, u := range undoOf {
		if u == undo {
			return action
		}
	}
	return ""
}

// Destroys reports whether an action cannot be undone.
func Destroys(action string) bool { return action == Evict || action == Delete }

// InOrder returns the containments among actions, in their order.
func InOrder(actions []string) []string {
	var out []string
	for _, a := range Containments {
		if slices.Contains(actions, a) {
			out = append(out, a)
		}
	}
	return out
}
