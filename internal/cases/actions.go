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

// Containment is one way to contain a pod, with all that is said of it. To add one, add a
// row here and carry it out in internal/contain; tests name what is missing elsewhere.
type Containment struct {
	Name string
	Done string // says that it was carried out
	Word string // the same in one word, for a timeline
	// Undo is the action that undoes it; "": nothing does.
	Undo, UndoDone, UndoWord string
	State                    string // of the case while it is in force; "" without Undo
	Stays                    string // says that it lasts, before a time; "": it has no end
	Destroys                 bool   // it cannot be undone, and destroys what has run
	OnNode                   bool   // the node's sensor carries it out, by an order
}

// table has every containment, in the order in which they are carried out, whatever the
// order in a policy: by what each would destroy for those after it.
var table = []Containment{
	{Name: Freeze, Done: "container frozen", Word: "frozen", Undo: Thaw, UndoDone: "container unfrozen", UndoWord: "thawed",
		State: "frozen", Stays: "The container stays frozen,", OnNode: true},
	{Name: Evidence, Done: "evidence saved", Word: "evidence", OnNode: true},
	{Name: Isolate, Done: "pod isolated", Word: "isolated", Undo: Release, UndoDone: "pod released from isolation", UndoWord: "released",
		State: "isolated", Stays: "The pod stays isolated,"},
	{Name: Cordon, Done: "node cordoned", Word: "cordoned", Undo: Uncordon, UndoDone: "node uncordoned", UndoWord: "uncordoned", State: "node cordoned"},
	{Name: Evict, Done: "pod evicted", Word: "evicted", Destroys: true},
	{Name: Delete, Done: "pod deleted", Word: "deleted", Destroys: true},
}

// Table returns every containment, in the order in which they are carried out.
func Table() []Containment { return slices.Clone(table) }

// Containments are the names of the containments, in their order.
var Containments = func() (out []string) {
	for _, c := range table {
		out = append(out, c.Name)
	}
	return out
}()

// ContainmentOf returns the containment with a name, or that another action undoes; zero
// for other actions.
func ContainmentOf(action string) Containment {
	for _, c := range table {
		if c.Name == action || c.Undo != "" && c.Undo == action {
			return c
		}
	}
	return Containment{}
}

// DoneText says that a containment, or what undoes one, was carried out.
func DoneText(action string) string {
	if c := ContainmentOf(action); c.Undo == action {
		return c.UndoDone
	}
	return ContainmentOf(action).Done
}

// Word names a containment that was carried out, or what undid one, in one word.
func Word(action string) string {
	if c := ContainmentOf(action); c.Undo == action {
		return c.UndoWord
	}
	return ContainmentOf(action).Word
}

// ByHand is what a click on ActionContain does: it can be undone, or destroys nothing.
var ByHand = []string{Freeze, Evidence}

// UndoOf returns the action that undoes another, or "".
func UndoOf(action string) string {
	if c := ContainmentOf(action); c.Name == action {
		return c.Undo
	}
	return ""
}

// UndoneBy returns the action that another undoes, or "".
func UndoneBy(undo string) string {
	if c := ContainmentOf(undo); c.Name != undo {
		return c.Name
	}
	return ""
}

// Destroys reports whether an action cannot be undone.
func Destroys(action string) bool { return ContainmentOf(action).Destroys }

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
