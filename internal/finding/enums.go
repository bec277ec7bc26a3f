package finding

// Enums that arrive as numbers as well as by name, as SCC's API numbers them.
var (
	states         = map[int64]string{1: "ACTIVE", 2: stateInactive}
	severities     = map[int64]string{1: "CRITICAL", 2: "HIGH", 3: "MEDIUM", 4: "LOW"}
	mutes          = map[int64]string{1: muteMuted, 2: "UNMUTED", 3: "UNDEFINED", 4: "UNDEFINED"} // 4 in v1
	findingClasses = map[int64]string{
		1: ClassThreat, 2: "VULNERABILITY", 3: "MISCONFIGURATION", 4: "OBSERVATION", 5: ClassError, 6: "POSTURE_VIOLATION",
		7: "TOXIC_COMBINATION", 8: "SENSITIVE_DATA_RISK", 9: "CHOKEPOINT",
	}
	protocols = map[int64]string{1: "ICMP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP"}
)

const (
	stateInactive = "INACTIVE"
	muteMuted     = "MUTED"
)

// enum returns an enum's name. A number that is not known stays a number.
func (v value) enum(names map[int64]string) string {
	s := v.str()
	if n := v.integer(); n != 0 && names[n] != "" {
		return names[n]
	}
	return s
}

// technique returns the name of a tactic or technique.
func (v value) technique(table map[int64]Technique) string {
	if t, ok := table[v.integer()]; ok {
		return t.Name
	}
	return v.str()
}
