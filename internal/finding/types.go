package finding

import "strings"

// Kind is the playbook that a finding leads to.
type Kind int

const (
	Other           Kind = iota // not about what runs in a container: acknowledged and counted
	ContainerThreat             // something ran in a container
	DetectorHealth              // a detector cannot see what it should
)

// String returns the playbook's name.
func (k Kind) String() string { return [...]string{"none", "container threat", "detector health"}[k] }

// Subject is what a finding is about: what Finding.Process describes, and what is looked up.
type Subject string

const (
	SubjectProgram    Subject = "program"    // the binary of a process
	SubjectLibrary    Subject = "library"    // a library; Process.Runner is the program that loaded it
	SubjectScript     Subject = "script"     // a script; Process.Runner is its interpreter
	SubjectConnection Subject = "connection" // a program and the address that it is connected to
	SubjectFile       Subject = "file"       // a program and the file that it changed or read
	SubjectDetector   Subject = "detector"   // no program: the detector itself
)

// Categories that are used by name. Those that we raise ourselves are worded as
// Container Threat Detection words them.
const (
	AddedBinary          = "Added Binary Executed"
	AddedMaliciousBinary = "Execution: Added Malicious Binary Executed"
	SensorBlind          = "CONTRABAND_SENSOR_BLIND"
	ReverseShell         = "Reverse Shell"
)

// Type describes the findings of one category.
type Type struct {
	Category string
	Kind     Kind
	Subject  Subject
	// Malicious means that the detector itself has recognised the subject as malicious.
	Malicious bool
	// MITRE has tactics and techniques, as SCC spells them, for findings that name none.
	MITRE []string
}

// types is the registry of every category that is handled, in the order of the
// documentation: Container Threat Detection's, which Cloud Run Threat Detection and Agent
// Engine Threat Detection share, then the errors of detectors.
var types = []Type{
	behaviour(AddedBinary, SubjectProgram, "COMMAND_AND_CONTROL", "INGRESS_TOOL_TRANSFER", "EXECUTION", "NATIVE_API"),
	behaviour("Added Library Loaded", SubjectLibrary, "EXECUTION", "SHARED_MODULES"),
	behaviour("Collection: Pam.d Modification", SubjectFile, "COLLECTION", "PLUGGABLE_AUTHENTICATION_MODULES"),
	behaviour("Command and Control: Steganography Tool Detected", SubjectProgram,
		"COMMAND_AND_CONTROL", "DATA_OBFUSCATION_STEGANOGRAPHY"),
	behaviour("Credential Access: Access Sensitive Files on Nodes", SubjectFile,
		"CREDENTIAL_ACCESS", "OS_CREDENTIAL_DUMPING_ETC_PASSWORD_AND_ETC_SHADOW"),
	behaviour("Credential Access: Find Google Cloud Credentials", SubjectProgram,
		"CREDENTIAL_ACCESS", "UNSECURED_CREDENTIALS"),
	behaviour("Credential Access: GPG Key Reconnaissance", SubjectProgram, "CREDENTIAL_ACCESS", "PRIVATE_KEYS"),
	behaviour("Credential Access: Search Private Keys or Passwords", SubjectProgram,
		"CREDENTIAL_ACCESS", "CREDENTIALS_IN_FILES"),
	behaviour("Defense Evasion: Base64 ELF File Command Line", SubjectProgram,
		"DEFENSE_EVASION", "OBFUSCATED_FILES_OR_INFO"),
	behaviour("Defense Evasion: Base64 Encoded Python Script Executed", SubjectScript,
		"DEFENSE_EVASION", "COMMAND_OBFUSCATION"),
	behaviour("Defense Evasion: Base64 Encoded Shell Script Executed", SubjectScript,
		"DEFENSE_EVASION", "COMMAND_OBFUSCATION"),
	behaviour("Defense Evasion: Disable or Modify Linux Audit System", SubjectFile,
		"DEFENSE_EVASION", "DISABLE_OR_MODIFY_LINUX_AUDIT_SYSTEM"),
	behaviour("Defense Evasion: Launch Code Compiler Tool In Container", SubjectProgram,
		"DEFENSE_EVASION", "COMPILE_AFTER_DELIVERY"),
	behaviour("Defense Evasion: Root Certificate Installed", SubjectFile,
		"DEFENSE_EVASION", "INSTALL_ROOT_CERTIFICATE"),
	recognised(AddedMaliciousBinary, SubjectProgram,
		"COMMAND_AND_CONTROL", "INGRESS_TOOL_TRANSFER", "EXECUTION", "NATIVE_API"),
	recognised("Execution: Added Malicious Library Loaded", SubjectLibrary, "EXECUTION", "SHARED_MODULES"),
	recognised("Execution: Built in Malicious Binary Executed", SubjectProgram, "EXECUTION", "NATIVE_API"),
	behaviour("Execution: Container Escape", SubjectProgram, "PRIVILEGE_ESCALATION", "ESCAPE_TO_HOST"),
	recognised("Execution: Cryptomining Docker Image", SubjectProgram, "IMPACT", "RESOURCE_HIJACKING"),
	behaviour("Execution: Fileless Execution in /memfd:", SubjectProgram, "EXECUTION", "REFLECTIVE_CODE_LOADING"),
	behaviour("Execution: Ingress Nightmare Vulnerability Execution", SubjectProgram,
		"EXECUTION", "EXPLOIT_PUBLIC_FACING_APPLICATION"),
	behaviour("Execution: Kubernetes Attack Tool Execution", SubjectProgram, "EXECUTION", "OBTAIN_CAPABILITIES"),
	behaviour("Execution: Local Reconnaissance Tool Execution", SubjectProgram, "RECONNAISSANCE", "ACTIVE_SCANNING"),
	recognised("Execution: Malicious Python executed", SubjectScript, "EXECUTION", "PYTHON"),
	recognised("Execution: Modified Malicious Binary Executed", SubjectProgram,
		"COMMAND_AND_CONTROL", "INGRESS_TOOL_TRANSFER", "EXECUTION", "NATIVE_API"),
	recognised("Execution: Modified Malicious Library Loaded", SubjectLibrary, "EXECUTION", "SHARED_MODULES"),
	behaviour("Execution: Netcat Remote Code Execution in Container", SubjectConnection, "EXECUTION", "UNIX_SHELL"),
	behaviour("Execution: Possible Arbitrary Command Execution through CUPS", SubjectProgram,
		"EXECUTION", "EXPLOIT_PUBLIC_FACING_APPLICATION"),
	behaviour("Execution: Possible Remote Command Execution Detected", SubjectConnection, "EXECUTION", "UNIX_SHELL"),
	behaviour("Execution: Program Run with Disallowed HTTP Proxy Env", SubjectProgram,
		"COMMAND_AND_CONTROL", "PROXY"),
	behaviour("Execution: Socat Reverse Shell Detected", SubjectConnection, "EXECUTION", "UNIX_SHELL"),
	behaviour("Execution: Suspicious Cron Modification", SubjectFile, "EXECUTION", "SCHEDULED_TASK_JOB_CRON"),
	behaviour("Execution: Suspicious OpenSSL Shared Object Loaded", SubjectLibrary, "EXECUTION", "SHARED_MODULES"),
	behaviour("Exfiltration: Launch Remote File Copy Tools in Container", SubjectProgram,
		"EXFILTRATION", "AUTOMATED_EXFILTRATION"),
	behaviour("Impact: Detect Malicious Cmdlines", SubjectProgram, "IMPACT"),
	behaviour("Impact: Remove Bulk Data From Disk", SubjectProgram, "IMPACT", "DATA_DESTRUCTION"),
	behaviour("Impact: Suspicious crypto mining activity using the Stratum Protocol", SubjectProgram,
		"IMPACT", "RESOURCE_HIJACKING"),
	recognised("Malicious Script Executed", SubjectScript, "EXECUTION", "COMMAND_AND_SCRIPTING_INTERPRETER"),
	recognised("Execution: Malicious Script Executed", SubjectScript,
		"EXECUTION", "COMMAND_AND_SCRIPTING_INTERPRETER"),
	behaviour("Malicious URL Observed", SubjectProgram, "COMMAND_AND_CONTROL", "INGRESS_TOOL_TRANSFER"),
	behaviour("Persistence: Modify ld.so.preload", SubjectFile,
		"PERSISTENCE", "HIJACK_EXECUTION_FLOW_DYNAMIC_LINKER_HIJACKING"),
	behaviour("Privilege Escalation: Abuse of Sudo For Privilege Escalation", SubjectProgram,
		"PRIVILEGE_ESCALATION", "ABUSE_ELEVATION_CONTROL_MECHANISM_SUDO_AND_SUDO_CACHING"),
	behaviour("Privilege Escalation: Fileless Execution in /dev/shm", SubjectProgram,
		"PRIVILEGE_ESCALATION", "REFLECTIVE_CODE_LOADING"),
	behaviour("Privilege Escalation: Polkit Local Privilege Escalation Vulnerability", SubjectProgram,
		"PRIVILEGE_ESCALATION", "EXPLOITATION_FOR_PRIVILEGE_ESCALATION"),
	behaviour("Privilege Escalation: Sudo Potential Privilege Escalation", SubjectProgram,
		"PRIVILEGE_ESCALATION", "EXPLOITATION_FOR_PRIVILEGE_ESCALATION"),
	behaviour(ReverseShell, SubjectConnection, "EXECUTION", "UNIX_SHELL"),
	behaviour("Unexpected Child Shell", SubjectConnection, "EXECUTION", "UNIX_SHELL"),

	detectorError("KTD_BLOCKED_BY_ADMISSION_CONTROLLER"),
	detectorError("KTD_IMAGE_PULL_FAILURE"),
	detectorError("KTD_SERVICE_ACCOUNT_MISSING_PERMISSIONS"),
	detectorError("GKE_SERVICE_ACCOUNT_MISSING_PERMISSIONS"),
	detectorError(SensorBlind),
}

// behaviour returns a type whose detector reports what happened, not that the subject is
// known to be malicious. mitre has tactics and techniques.
func behaviour(category string, about Subject, mitre ...string) Type {
	return Type{Category: category, Kind: ContainerThreat, Subject: about, MITRE: mitre}
}

// recognised returns a type whose detector has recognised the subject as malicious.
func recognised(category string, about Subject, mitre ...string) Type {
	t := behaviour(category, about, mitre...)
	t.Malicious = true
	return t
}

func detectorError(category string) Type {
	return Type{Category: category, Kind: DetectorHealth, Subject: SubjectDetector}
}

// Types returns every category that is handled.
func Types() []Type { return append([]Type(nil), types...) }

var typeOf = func() map[string]Type {
	out := map[string]Type{}
	for _, t := range types {
		out[t.Category], out[normalized(t.Category)] = t, t
	}
	return out
}()

func lookUpType(category string) (t Type, known bool) {
	if t, known = typeOf[category]; !known {
		t, known = typeOf[normalized(category)]
	}
	return t, known
}

// normalized returns a category without what varies between Google's own pages and
// findings: case, and a CVE's number at the end.
func normalized(category string) string {
	category, _, _ = strings.Cut(strings.ToLower(category), "(cve-")
	return strings.TrimSpace(category)
}

// detectors are the display names of the sources of Google that report what runs in
// containers.
var detectors = []string{
	"Container Threat Detection", "Cloud Run Threat Detection", "Agent Engine Threat Detection", "Agent Platform Threat Detection",
}

// healthPrefixes begin the categories of errors of Google's container detectors.
var healthPrefixes = []string{"KTD_", "CRTD_", "CLOUD_RUN_THREAT_DETECTION_", "AGENT_ENGINE_THREAT_DETECTION_"}

// Classes of findings.
const (
	ClassThreat = "THREAT"
	ClassError  = "SCC_ERROR"
)

// Type returns what is known of the finding's category. A category that a container
// detector learnt later is about a program.
func (f Finding) Type() Type {
	t, known := lookUpType(f.Category)
	switch {
	case known && (t.Kind != DetectorHealth || f.Class == ClassError):
		return t
	case f.Class == ClassThreat && isDetector(f.Detector):
		return Type{Category: f.Category, Kind: ContainerThreat, Subject: SubjectProgram}
	case f.Class == ClassError && (isDetector(f.Detector) || hasAnyPrefix(f.Category, healthPrefixes)):
		return Type{Category: f.Category, Kind: DetectorHealth, Subject: SubjectDetector}
	}
	return Type{Category: f.Category}
}

// Kind returns the playbook that the finding leads to.
func (f Finding) Kind() Kind { return f.Type().Kind }

func isDetector(displayName string) bool {
	for _, d := range detectors {
		if strings.EqualFold(displayName, d) {
			return true
		}
	}
	return false
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
