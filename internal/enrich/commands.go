package enrich

import (
	"fmt"
	"strings"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

// commands returns the commands that reach what the finding is about: a pod's container, a
// service, or on a machine without either the process.
func commands(f finding.Finding) []cases.Fact {
	switch {
	case f.Kind() == finding.DetectorHealth:
		return healthCommands(f)
	case f.Service.Kind != "":
		return serviceCommands(f)
	case f.Pod.Name != "":
		return podCommands(f)
	}
	return processCommands(f)
}

// healthCommands show what the detector itself says. Of Google's, the finding has the steps.
func healthCommands(f finding.Finding) []cases.Fact {
	if f.Category != finding.SensorBlind || f.Node == "" {
		return nil
	}
	return []cases.Fact{
		command("Find the sensor of the node", nil, "kubectl get pods --namespace=contraband --selector=app.kubernetes.io/name=contraband-sensor --field-selector=%s",
			quoteShell("spec.nodeName="+f.Node)),
		command("Read its log (replace POD)", nil, "kubectl logs --namespace=contraband POD --since=1h"),
		command("What the node's kernel supports (replace POD)", nil, "kubectl exec --namespace=contraband POD -- contraband doctor"),
		command("Move its pods to nodes with a sensor that works", map[string]string{"node": f.Node}, "kubectl drain %s --ignore-daemonsets", quoteShell(f.Node)),
	}
}

func processCommands(f finding.Finding) []cases.Fact {
	if f.Process.PID == 0 {
		return nil
	}
	root := fmt.Sprintf("/proc/%d/root", f.Process.PID)
	return []cases.Fact{
		{Title: "Copy the program (as root on the node)", Text: "cp -- " + quoteShell(root+f.Process.Path) + " ./evidence.bin"},
		{Title: "A shell in the container (not while it is frozen)", Text: fmt.Sprintf("nsenter --target %d --mount --pid --net --uts --ipc -- /bin/sh", f.Process.PID)},
	}
}

func podCommands(f finding.Finding) []cases.Fact {
	flag := "--region="
	if finding.IsZone(f.Location) {
		flag = "--zone="
	}
	container := ""
	if f.Container.Name != "" {
		container = " --container=" + quoteShell(f.Container.Name)
	}
	return []cases.Fact{
		command("Reach the cluster", map[string]string{"cluster": f.Cluster},
			"gcloud container clusters get-credentials %s %s%s --project=%s", quoteShell(f.Cluster), flag, quoteShell(f.Location), quoteShell(f.Project)),
		command("Copy the program (needs tar in the image)", map[string]string{"namespace": f.Pod.Namespace},
			"kubectl cp %s ./evidence.bin%s", quoteShell(f.Pod.Namespace+"/"+f.Pod.Name+":"+f.Process.Path), container),
		command("A shell in the container (not while it is frozen)", map[string]string{"pod": f.Pod.Name},
			"kubectl exec --namespace=%s -ti %s%s -- /bin/sh", quoteShell(f.Pod.Namespace), quoteShell(f.Pod.Name), container),
	}
}

// serviceCommands are for a person: nothing of a service is contained by itself.
func serviceCommands(f finding.Finding) []cases.Fact {
	named := map[string]string{"name": f.Service.Name}
	place := fmt.Sprintf("--region=%s --project=%s", quoteShell(f.Location), quoteShell(f.Project))
	name := quoteShell(f.Service.Name)
	switch f.Service.Kind {
	case finding.CloudRunService:
		return []cases.Fact{
			command("Describe the service", named, "gcloud run services describe %s %s", name, place),
			command("List its revisions", named, "gcloud run revisions list --service=%s %s", name, place),
			command("Send all traffic to an earlier revision (replace REVISION)", named,
				"gcloud run services update-traffic %s --to-revisions=REVISION=100 %s", name, place),
		}
	case finding.CloudRunJob:
		return []cases.Fact{
			command("Describe the job", named, "gcloud run jobs describe %s %s", name, place),
			command("List its executions", named, "gcloud run jobs executions list --job=%s %s", name, place),
			command("Cancel an execution (replace EXECUTION)", named, "gcloud run jobs executions cancel EXECUTION %s", place),
		}
	}
	return nil
}

func serviceQueries(f finding.Finding) []cases.Fact {
	var kind, label string
	switch f.Service.Kind {
	case finding.CloudRunService:
		kind, label = "cloud_run_revision", "service_name"
	case finding.CloudRunJob:
		kind, label = "cloud_run_job", "job_name"
	default:
		kind, label = "aiplatform.googleapis.com/ReasoningEngine", "reasoning_engine_id"
	}
	of := term("resource.labels."+label, f.Service.Name)
	where := []string{term("resource.labels.project_id", f.Project), term("resource.labels.location", f.Location)}
	logs := append([]string{term("resource.type", kind), of}, where...)
	return []cases.Fact{
		{Title: "Logs of the " + string(f.Service.Kind), Text: strings.Join(logs, "\n")},
		{Title: "Changes to the " + string(f.Service.Kind), Text: strings.Join([]string{auditLog(f), quoteLog(f.Service.Name)}, "\n")},
	}
}

// command returns a command line, or why none is printed: an argument that begins with a
// dash would be taken for an option, whatever quotes are around it.
func command(title string, positional map[string]string, format string, args ...any) cases.Fact {
	for what, value := range positional {
		if strings.HasPrefix(value, "-") {
			return cases.Fact{Title: title + ": not printed, because the " + what + " begins with a dash and would be taken for an option"}
		}
	}
	return cases.Fact{Title: title, Text: fmt.Sprintf(format, args...)}
}

// quoteShell quotes s as one word for a POSIX shell.
func quoteShell(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+=-") == "" && s[0] != '-' {
		return s
	}
	return `'` + strings.ReplaceAll(s, `'`, `'\''`) + `'`
}
