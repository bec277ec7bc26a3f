package finding

import (
	"strings"

	"github.com/contraband-dev/contraband/internal/redact"
)

// decodeProcess decodes the subject of the finding: the process that it is about (by its
// source properties, then by hash, then the first), and of that the library, the script or
// the binary. Further processes and libraries are mentioned.
func (e envelope) decodeProcess(f *Finding) {
	processes := e.finding.get("processes").list()
	lead := e.leadingProcess(f.Type().Subject, processes)
	p := at(processes, lead)
	binary := p.get("binary")
	switch subject := f.Type().Subject; {
	case subject == SubjectLibrary && !e.isOurs():
		e.decodeLibrary(f, p)
	case p.get("script").get("path").str() != "" || p.get("script").get("contents").str() != "":
		e.decodeScript(f, p)
	default:
		f.Process = fileOf(binary)
		f.Process.Path = or(f.Process.Path, e.properties.get("Process_Binary_Fullpath").str())
	}
	e.decodeExecution(f, p)
	if f.Process.SHA256 == "" && f.Process.Partial == "" {
		f.Process.SHA256 = e.linkedHash(f.Process.Runner)
	}
	for i, other := range processes {
		if i != lead {
			f.mention("process", other.get("binary").get("path").str(), wholeHash(other.get("binary")))
		}
	}
}

// linkedHash returns the hash in the finding's link to VirusTotal, unless it is the hash of
// the program that runs the subject.
func (e envelope) linkedHash(r *Runner) string {
	sum := e.properties.get("contextUris").linkedHash(maxLinkDepth)
	if r != nil && r.SHA256 == sum {
		return ""
	}
	return sum
}

// maxLinkDepth bounds how deep a link is looked for.
const maxLinkDepth = 8

// isOurs reports whether our own sensor's properties are there: it reports a library under
// the category of a binary, as the process itself.
func (e envelope) isOurs() bool { return e.properties.get("Contraband").present() }

// leadingProcess returns the index of the process that the finding is about.
func (e envelope) leadingProcess(subject Subject, processes []value) int {
	if len(processes) < 2 {
		return 0
	}
	path, pid, linked := e.subjectPath(subject), e.properties.get("Pid").integer(), e.linkedHash(nil)
	for _, matches := range []func(value) bool{
		func(p value) bool { return path != "" && pid != 0 && has(p, path) && p.get("pid").integer() == pid },
		func(p value) bool { return path != "" && has(p, path) },
		func(p value) bool { return linked != "" && hasHash(p, linked) },
		func(p value) bool { return pid != 0 && p.get("pid").integer() == pid },
		func(p value) bool { return subject == SubjectLibrary && len(p.get("libraries").list()) > 0 },
		func(p value) bool { return subject == SubjectScript && p.get("script").present() },
	} {
		if i := leading(processes, matches); i > 0 || matches(processes[0]) {
			return i
		}
	}
	return 0
}

// subjectPath returns the path that the source properties name.
func (e envelope) subjectPath(subject Subject) string {
	if subject == SubjectLibrary {
		return or(e.properties.get("Added_Library_Fullpath").str(), e.properties.get("Process_Binary_Fullpath").str())
	}
	return e.properties.get("Process_Binary_Fullpath").str()
}

// filesOf returns the files of a process: its binary, its script, its libraries.
func filesOf(p value) []value {
	return append([]value{p.get("binary"), p.get("script")}, p.get("libraries").list()...)
}

func has(p value, path string) bool {
	for _, file := range filesOf(p) {
		if file.get("path").str() == path {
			return true
		}
	}
	return false
}

func hasHash(p value, sum string) bool {
	for _, file := range filesOf(p) {
		if strings.ToLower(file.get("sha256").str()) == sum {
			return true
		}
	}
	return false
}

// decodeLibrary makes the library the subject, and the program that loaded it the runner.
func (e envelope) decodeLibrary(f *Finding, p value) {
	libraries := p.get("libraries").list()
	path, linked := e.properties.get("Added_Library_Fullpath").str(), e.linkedHash(nil)
	lead := leading(libraries, func(l value) bool { return path != "" && l.get("path").str() == path })
	if path == "" || at(libraries, lead).get("path").str() != path {
		lead = leading(libraries, func(l value) bool { return linked != "" && strings.ToLower(l.get("sha256").str()) == linked })
	}
	f.Process = fileOf(at(libraries, lead))
	f.Process.Path = or(f.Process.Path, path)
	f.Process.Runner = runner(p, e.properties.get("Process_Binary_Fullpath").str())
	for i, l := range libraries {
		if i != lead {
			f.mention("library", l.get("path").str(), wholeHash(l))
		}
	}
}

// decodeScript makes the script the subject, and its interpreter the runner.
func (e envelope) decodeScript(f *Finding, p value) {
	script := p.get("script")
	f.Process = fileOf(script)
	f.Process.Contents = redact.Script(unquoted(script.get("contents").str()))
	f.Process.Runner = runner(p, "")
}

func runner(p value, path string) *Runner {
	r := Runner{Path: or(p.get("binary").get("path").str(), path), SHA256: wholeHash(p.get("binary"))}
	if r == (Runner{}) {
		return nil
	}
	return &r
}

// decodeExecution decodes what the process was started with.
func (e envelope) decodeExecution(f *Finding, p value) {
	args := p.get("args").strings()
	if len(args) == 0 {
		args = e.properties.get("Process_Arguments").decoded().strings()
	}
	for i := range args {
		if !e.isOurs() { // our sensor encodes nothing
			args[i] = unquoted(args[i])
		}
	}
	f.Process.Args = redact.Args(args)
	if f.Process.PID = p.get("pid").integer(); f.Process.PID == 0 {
		f.Process.PID = e.properties.get("Pid").integer()
	}
	if f.Process.ParentPID = p.get("parentPid").integer(); f.Process.ParentPID == 0 {
		f.Process.ParentPID = e.properties.get("Parent_Pid").integer()
	}
}

// fileOf returns path, size and hash of a file.
func fileOf(file value) Process {
	p := Process{Path: file.get("path").str(), Size: file.get("size").integer(), SHA256: wholeHash(file)}
	if sum := strings.ToLower(file.get("sha256").str()); p.SHA256 == "" && isSHA256(sum) {
		p.Partial = sum
	}
	return p
}

// wholeHash returns the SHA-256 of a file; "" where only a prefix was hashed: a look-up
// would be about another file.
func wholeHash(file value) string {
	sum := strings.ToLower(file.get("sha256").str())
	if !isSHA256(sum) || file.get("partiallyHashed").boolean() {
		return ""
	}
	if hashed := file.get("hashedSize"); hashed.present() && hashed.integer() != file.get("size").integer() {
		return ""
	}
	return sum
}
