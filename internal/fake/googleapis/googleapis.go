// Package googleapis is a loopback server that plays the part of Google's APIs that
// Terraform talks to: it keeps what is written, knows what belongs to what, refuses
// what is there already or is not, and lets IAM policies be set on what exists alone.
// It knows no more of a resource than its name and its fields.
package googleapis

import (
	"bytes"
	"cmp"
	"crypto/md5" // what Cloud Storage names an object's bytes by
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Server is the APIs, over HTTP on loopback.
type Server struct {
	URL string

	http     *httptest.Server
	mu       sync.Mutex
	objects  map[string]map[string]any // by API and name
	policies map[string]map[string]any
	serial   int
	log      []string
}

// endpoints are the environment variables by which the provider is sent elsewhere, and
// the paths that it is sent to; the first element of a path is the API.
var endpoints = map[string]string{
	"PUBSUB": "pubsub/v1/", "SECURITY_CENTER_V2": "scc/v2/", "CLOUDFUNCTIONS2": "functions/v2/", "WORKFLOWS": "workflows/v1/",
	"SECRET_MANAGER": "secrets/v1/", "STORAGE": "storage/storage/v1/", "IAM_BETA": "iam/v1/", "IAM": "iam/v1/", "MONITORING": "monitoring/",
	"ARTIFACT_REGISTRY": "registry/v1/", "CLOUD_RUN_V2": "run/v2/", "CLOUD_SCHEDULER": "scheduler/v1/", "RESOURCE_MANAGER": "manager/", "RESOURCE_MANAGER_V3": "manager/v3/",
}

// Start starts an empty one.
func Start() *Server {
	s := &Server{objects: map[string]map[string]any{}, policies: map[string]map[string]any{}}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	s.URL = s.http.URL
	return s
}

// Close ends it.
func (s *Server) Close() { s.http.Close() }

// Environment is what sends the provider here.
func (s *Server) Environment() []string {
	env := []string{"GOOGLE_OAUTH_ACCESS_TOKEN=none"}
	for name, p := range endpoints {
		env = append(env, "GOOGLE_"+name+"_CUSTOM_ENDPOINT="+s.URL+"/"+p)
	}
	return env
}

// Names of what is there, sorted: "pubsub projects/p/topics/t".
func (s *Server) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Object returns a copy of one, nil when it is not there.
func (s *Server) Object(name string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.objects[name])
}

// Change changes one behind Terraform's back.
func (s *Server) Change(name string, change func(map[string]any)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[name]
	if o == nil {
		return fmt.Errorf("there is no %q", name)
	}
	change(o)
	return nil
}

// Binding is one member's role on one resource, and the expression that bounds it.
type Binding struct{ Resource, Role, Member, Condition string }

// Bindings returns what was granted, by resource.
func (s *Server) Bindings() (out []Binding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.policies {
		bindings, _ := p["bindings"].([]any)
		for _, b := range bindings {
			b, _ := b.(map[string]any)
			role, _ := b["role"].(string)
			condition, _ := b["condition"].(map[string]any)
			expression, _ := condition["expression"].(string)
			members, _ := b["members"].([]any)
			for _, m := range members {
				out = append(out, Binding{name, role, fmt.Sprint(m), expression})
			}
		}
	}
	slices.SortFunc(out, func(a, b Binding) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Member, b.Member))
	})
	return out
}

// Log is the requests that it has refused.
func (s *Server) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// problem is an answer that is not 2xx.
type problem struct {
	code int
	why  string
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var body map[string]any
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<20))
	if err == nil && len(raw) > 0 && !strings.HasPrefix(r.URL.Path, "/upload/") {
		err = json.Unmarshal(raw, &body)
	}
	var answer map[string]any
	p := &problem{http.StatusBadRequest, "the body is no JSON"}
	if err == nil {
		answer, p = s.answer(r, body, raw)
	}
	w.Header().Set("Content-Type", "application/json")
	if p != nil {
		s.log = append(s.log, fmt.Sprintf("%d %s %s: %s", p.code, r.Method, r.URL, p.why))
		w.WriteHeader(p.code)
		answer = map[string]any{"error": map[string]any{"code": p.code, "message": p.why}}
	}
	json.NewEncoder(w).Encode(answer)
}

func (s *Server) answer(r *http.Request, body map[string]any, raw []byte) (map[string]any, *problem) {
	api, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch api {
	case "storage", "upload":
		return s.storage(r, api == "upload", rest, body, raw)
	case "v1", "v2", "v3": // the resource manager's client drops the path that it is given
		api = "manager"
	default:
		_, rest, _ = strings.Cut(rest, "/") // its version
	}
	name, verb, _ := strings.Cut(rest, ":")
	key := api + " " + name
	switch verb {
	case "getIamPolicy", "setIamPolicy":
		return s.policy(api, key, verb, body)
	case "addVersion":
		return s.addVersion(key, name, body)
	case "access":
		return s.access(key)
	case "destroy", "disable", "enable", "resume", "pause":
		return s.setState(key, map[string]string{"destroy": "DESTROYED", "disable": "DISABLED", "enable": "ENABLED", "resume": "ENABLED", "pause": "PAUSED"}[verb])
	case "":
	default:
		return nil, &problem{http.StatusNotImplemented, "verb " + verb}
	}
	switch r.Method {
	case http.MethodGet:
		return s.get(key)
	case http.MethodDelete:
		return s.remove(api, key)
	case http.MethodPut: // Pub/Sub creates so
		return s.create(api, name, body)
	case http.MethodPatch:
		return s.patch(api, key, r.URL.Query().Get("updateMask"), body)
	case http.MethodPost:
		return s.post(api, name, r, body)
	}
	return nil, &problem{http.StatusMethodNotAllowed, r.Method}
}

// post creates in a collection: the id is in the query, in the body, or ours to make.
func (s *Server) post(api, collection string, r *http.Request, body map[string]any) (map[string]any, *problem) {
	for q, v := range r.URL.Query() {
		if strings.HasSuffix(strings.ToLower(q), "id") {
			return s.create(api, collection+"/"+v[0], body)
		}
	}
	switch last := path.Base(collection); last {
	case "serviceAccounts":
		id, _ := body["accountId"].(string)
		account, _ := body["serviceAccount"].(map[string]any)
		project := strings.Split(collection, "/")[1]
		email := id + "@" + project + ".iam.gserviceaccount.com"
		if account == nil {
			account = map[string]any{}
		}
		account["email"], account["projectId"] = email, project
		s.serial++
		account["uniqueId"] = strconv.Itoa(100000 + s.serial)
		return s.create(api, collection+"/"+email, account)
	case "roles":
		id, _ := body["roleId"].(string)
		role, _ := body["role"].(map[string]any)
		return s.create(api, collection+"/"+id, role)
	case "jobs":
		full, _ := body["name"].(string)
		return s.create(api, full, body)
	default:
		s.serial++
		return s.create(api, collection+"/"+strconv.Itoa(s.serial), body)
	}
}

// create keeps an object, with what the API adds to it.
func (s *Server) create(api, name string, body map[string]any) (map[string]any, *problem) {
	key := api + " " + name
	if s.objects[key] != nil {
		return nil, &problem{http.StatusConflict, name + " is there already"}
	}
	if body == nil {
		body = map[string]any{}
	}
	if p := s.missing(api, body); p != nil {
		return nil, p
	}
	delete(body, "etag")
	body["name"] = name
	kind := path.Base(path.Dir(name))
	if grow := grown[kind]; grow != nil {
		grow(name, body)
	}
	s.objects[key] = body
	if kind == "functions" { // the service that serves it
		s.objects["run "+strings.Replace(name, "/functions/", "/services/", 1)] = map[string]any{"name": path.Base(name)}
	}
	return s.operation(api, body), nil
}

// missing returns what an object refers to that is not there.
func (s *Server) missing(api string, body map[string]any) *problem {
	if topic, _ := body["topic"].(string); api == "pubsub" && topic != "" && s.objects["pubsub "+topic] == nil {
		return &problem{http.StatusNotFound, "there is no topic " + topic}
	}
	if topic, _ := body["pubsubTopic"].(string); api == "scc" && topic != "" && s.objects["pubsub "+topic] == nil {
		return &problem{http.StatusBadRequest, "there is no topic " + topic}
	}
	if d, _ := body["deadLetterPolicy"].(map[string]any); d != nil {
		if topic, _ := d["deadLetterTopic"].(string); s.objects["pubsub "+topic] == nil {
			return &problem{http.StatusBadRequest, "there is no dead-letter topic " + topic}
		}
	}
	return nil
}

// grown are the fields that an API adds to what is written.
var grown = map[string]func(name string, o map[string]any){
	"functions": func(name string, o map[string]any) {
		o["state"], o["environment"] = "ACTIVE", "GEN_2"
		o["url"] = "https://functions.invalid/" + path.Base(name)
		if c, _ := o["serviceConfig"].(map[string]any); c != nil {
			c["uri"] = "https://" + path.Base(name) + ".a.run.invalid"
			c["service"] = strings.Replace(name, "/functions/", "/services/", 1)
			if c["maxInstanceRequestConcurrency"] == nil {
				c["maxInstanceRequestConcurrency"] = 1
			}
		}
	},
	"workflows": func(_ string, o map[string]any) {
		o["state"], o["revisionId"] = "ACTIVE", "000001-000"
	},
	"notificationConfigs": func(name string, o map[string]any) {
		parts := strings.Split(name, "/")
		o["serviceAccount"] = "service-" + strings.TrimSuffix(parts[0], "s") + "-" + parts[1] + "@gcp-sa-scc-notification.iam.gserviceaccount.com"
	},
	"jobs": func(_ string, o map[string]any) { o["state"] = "ENABLED" },
	"roles": func(_ string, o map[string]any) {
		if o["stage"] == nil {
			o["stage"] = "GA"
		}
	},
	"alertPolicies": func(_ string, o map[string]any) {
		if cs, _ := o["conditions"].([]any); cs != nil {
			for i, c := range cs {
				c.(map[string]any)["name"] = fmt.Sprintf("%s/conditions/%d", o["name"], i)
			}
		}
	},
}

// operation is what long work answers: here it is done at once.
func (s *Server) operation(api string, o map[string]any) map[string]any {
	if api != "functions" && api != "workflows" && api != "registry" {
		return o
	}
	return map[string]any{"name": "operations/done", "done": true, "response": o}
}

func (s *Server) get(key string) (map[string]any, *problem) {
	o := s.objects[key]
	if o == nil || o["deleted"] == true {
		return nil, &problem{http.StatusNotFound, key + " is not there"}
	}
	return o, nil
}

func (s *Server) remove(api, key string) (map[string]any, *problem) {
	if _, p := s.get(key); p != nil {
		return nil, p
	}
	for other := range s.objects { // what is part of it goes with it
		if other == key || strings.HasPrefix(other, key+"/") {
			delete(s.objects, other)
			delete(s.policies, other)
		}
	}
	return s.operation(api, map[string]any{}), nil
}

func (s *Server) patch(api, key, mask string, body map[string]any) (map[string]any, *problem) {
	o, p := s.get(key)
	if p != nil {
		return nil, p
	}
	for _, wrapper := range []string{"topic", "subscription", "serviceAccount"} { // some take the object in a field of its kind
		if inner, ok := body[wrapper].(map[string]any); ok {
			if m, ok := body["updateMask"].(string); ok {
				mask = m
			}
			body = inner
		}
	}
	if p := s.missing(api, body); p != nil {
		return nil, p
	}
	if mask == "" {
		maps.Copy(o, body)
	}
	for field := range strings.SplitSeq(mask, ",") {
		set(o, body, strings.Split(field, "."))
	}
	return s.operation(api, o), nil
}

// set takes one field, by its path, from an update.
func set(o, update map[string]any, field []string) {
	name := camel(field[0])
	if len(field) == 1 || update[name] == nil {
		if v, ok := update[name]; ok && v != nil {
			o[name] = v
		} else if field[0] != "" {
			delete(o, name)
		}
		return
	}
	inner, _ := o[name].(map[string]any)
	if inner == nil {
		inner = map[string]any{}
		o[name] = inner
	}
	from, ok := update[name].(map[string]any)
	if !ok {
		o[name] = update[name]
		return
	}
	set(inner, from, field[1:])
}

// camel is a field's JSON name: masks may have it either way.
func camel(s string) string {
	parts := strings.Split(s, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

// policy reads or replaces an IAM policy; an old etag is refused, as it would undo
// another's change.
func (s *Server) policy(api, key, verb string, body map[string]any) (map[string]any, *problem) {
	if api != "manager" && s.objects[key] == nil { // projects, folders and the organization are there
		return nil, &problem{http.StatusNotFound, key + " is not there"}
	}
	now := s.policies[key]
	if now == nil {
		now = map[string]any{"version": 1, "etag": "MA=="}
	}
	if verb == "getIamPolicy" {
		return now, nil
	}
	wanted, _ := body["policy"].(map[string]any)
	if wanted["etag"] != nil && wanted["etag"] != now["etag"] {
		return nil, &problem{http.StatusConflict, "the policy has changed since it was read"}
	}
	s.serial++
	wanted["etag"] = fmt.Sprintf("%d=", s.serial)
	s.policies[key] = wanted
	return wanted, nil
}

func (s *Server) addVersion(key, name string, body map[string]any) (map[string]any, *problem) {
	if _, p := s.get(key); p != nil {
		return nil, p
	}
	payload, _ := body["payload"].(map[string]any)
	if data, _ := payload["data"].(string); data == "" {
		return nil, &problem{http.StatusBadRequest, "a version without a value"}
	}
	for n := 1; ; n++ {
		version := fmt.Sprintf("%s/versions/%d", name, n)
		if s.objects["secrets "+version] == nil {
			s.objects["secrets "+version] = map[string]any{"name": version, "state": "ENABLED", "createTime": "2026-01-01T00:00:00Z", "payload": payload}
			return map[string]any{"name": version, "state": "ENABLED"}, nil
		}
	}
}

func (s *Server) access(key string) (map[string]any, *problem) {
	o, p := s.get(key)
	if p != nil {
		return nil, p
	}
	return map[string]any{"name": o["name"], "payload": o["payload"]}, nil
}

func (s *Server) setState(key, state string) (map[string]any, *problem) {
	o, p := s.get(key)
	if p == nil {
		o["state"] = state
	}
	return o, p
}

// storage is the JSON API of Cloud Storage, whose forms are its own.
func (s *Server) storage(r *http.Request, upload bool, rest string, body map[string]any, raw []byte) (map[string]any, *problem) {
	_, rest, _ = strings.Cut(rest, "/b")
	rest = strings.TrimPrefix(rest, "/")
	if rest == "" && r.Method == http.MethodPost {
		name, _ := body["name"].(string)
		if s.objects["storage "+name] != nil {
			return nil, &problem{http.StatusConflict, name + " is there already"}
		}
		body["id"], body["selfLink"], body["projectNumber"], body["timeCreated"], body["updated"] = name, s.URL+"/b/"+name, "1", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
		if body["storageClass"] == nil {
			body["storageClass"] = "STANDARD"
		}
		body["location"] = strings.ToUpper(fmt.Sprint(body["location"]))
		s.objects["storage "+name] = body
		return body, nil
	}
	bucket, rest, _ := strings.Cut(rest, "/")
	b := s.objects["storage "+bucket]
	if b == nil {
		return nil, &problem{http.StatusNotFound, "there is no bucket " + bucket}
	}
	switch {
	case rest == "iam":
		verb := "getIamPolicy"
		if r.Method == http.MethodPut {
			verb, body = "setIamPolicy", map[string]any{"policy": body}
		}
		return s.policy("storage", "storage "+bucket, verb, body)
	case upload:
		return s.upload(r, bucket, raw)
	case strings.HasPrefix(rest, "o/"):
		key := "storage " + bucket + "/" + strings.TrimPrefix(rest, "o/")
		if r.Method == http.MethodDelete {
			return s.remove("storage", key)
		}
		return s.get(key)
	case rest == "o":
		items := []any{}
		for _, name := range slices.Sorted(maps.Keys(s.objects)) {
			if strings.HasPrefix(name, "storage "+bucket+"/") {
				items = append(items, s.objects[name])
			}
		}
		return map[string]any{"items": items}, nil
	case rest == "" && r.Method == http.MethodDelete:
		return s.remove("storage", "storage "+bucket)
	case rest == "" && (r.Method == http.MethodPatch || r.Method == http.MethodPut):
		maps.Copy(b, body)
		return b, nil
	case rest == "":
		return b, nil
	}
	return nil, &problem{http.StatusNotImplemented, r.Method + " " + rest}
}

// upload takes an object as its metadata and its bytes, in two parts.
func (s *Server) upload(r *http.Request, bucket string, raw []byte) (map[string]any, *problem) {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return nil, &problem{http.StatusBadRequest, err.Error()}
	}
	var parts [][]byte
	for m := multipart.NewReader(bytes.NewReader(raw), params["boundary"]); ; {
		part, err := m.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			var b []byte
			b, err = io.ReadAll(part)
			parts = append(parts, b)
		}
		if err != nil {
			return nil, &problem{http.StatusBadRequest, err.Error()}
		}
	}
	var o map[string]any
	if len(parts) != 2 || json.Unmarshal(parts[0], &o) != nil {
		return nil, &problem{http.StatusBadRequest, "an upload has metadata and bytes"}
	}
	name, sum := r.URL.Query().Get("name"), md5.Sum(parts[1])
	if inBody, _ := o["name"].(string); name == "" {
		name = inBody
	}
	o["name"] = name
	check := binary.BigEndian.AppendUint32(nil, crc32.Checksum(parts[1], crc32.MakeTable(crc32.Castagnoli)))
	maps.Copy(o, map[string]any{"bucket": bucket, "id": bucket + "/" + name, "generation": "1", "size": strconv.Itoa(len(parts[1])), "storageClass": "STANDARD",
		"md5Hash": base64.StdEncoding.EncodeToString(sum[:]), "crc32c": base64.StdEncoding.EncodeToString(check), "selfLink": s.URL + "/o", "mediaLink": s.URL + "/m"})
	s.objects["storage "+bucket+"/"+name] = o
	return o, nil
}
