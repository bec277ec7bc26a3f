package slack

import (
	"errors"
	"fmt"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/retry"
)

// errorClass is the class of each documented error of the methods that are called
// (chat.postMessage, chat.update, conversations.history, conversations.list,
// users.lookupByEmail, usergroups.list). An error that is not listed is misconfigured.
var errorClass = map[string]retry.Class{
	"accesslimited":          retry.Transient,
	"fatal_error":            retry.Transient,
	"internal_error":         retry.Transient,
	"message_limit_exceeded": retry.Transient,
	"rate_limited":           retry.Transient,
	"ratelimited":            retry.Transient,
	"request_timeout":        retry.Transient,
	"rollup_error":           retry.Transient,
	"service_unavailable":    retry.Transient,
	"team_added_to_org":      retry.Transient,

	"access_denied":                            retry.MisconfiguredClass,
	"account_inactive":                         retry.MisconfiguredClass,
	"as_user_not_supported":                    retry.MisconfiguredClass,
	"channel_not_found":                        retry.MisconfiguredClass,
	"deprecated_endpoint":                      retry.MisconfiguredClass,
	"ekm_access_denied":                        retry.MisconfiguredClass,
	"enterprise_is_restricted":                 retry.MisconfiguredClass,
	"invalid_auth":                             retry.MisconfiguredClass,
	"is_archived":                              retry.MisconfiguredClass,
	"method_deprecated":                        retry.MisconfiguredClass,
	"missing_scope":                            retry.MisconfiguredClass,
	"no_permission":                            retry.MisconfiguredClass,
	"not_allowed_token_type":                   retry.MisconfiguredClass,
	"not_authed":                               retry.MisconfiguredClass,
	"not_in_channel":                           retry.MisconfiguredClass,
	"org_login_required":                       retry.MisconfiguredClass,
	"restricted_action":                        retry.MisconfiguredClass,
	"restricted_action_non_threadable_channel": retry.MisconfiguredClass,
	"restricted_action_read_only_channel":      retry.MisconfiguredClass,
	"restricted_action_thread_locked":          retry.MisconfiguredClass,
	"restricted_action_thread_only_channel":    retry.MisconfiguredClass,
	"slack_connect_canvas_sharing_blocked":     retry.MisconfiguredClass,
	"team_access_not_granted":                  retry.MisconfiguredClass,
	"team_not_found":                           retry.MisconfiguredClass,
	"token_expired":                            retry.MisconfiguredClass,
	"token_revoked":                            retry.MisconfiguredClass,
	"two_factor_setup_required":                retry.MisconfiguredClass,
	"user_not_found":                           retry.MisconfiguredClass,
	"users_not_found":                          retry.MisconfiguredClass,

	"attachment_payload_limit_exceeded": retry.RefusedClass,
	"invalid_arg_name":                  retry.RefusedClass,
	"invalid_arguments":                 retry.RefusedClass,
	"invalid_array_arg":                 retry.RefusedClass,
	"invalid_attachments":               retry.RefusedClass,
	"invalid_blocks":                    retry.RefusedClass,
	"invalid_blocks_format":             retry.RefusedClass,
	"invalid_charset":                   retry.RefusedClass,
	"invalid_form_data":                 retry.RefusedClass,
	"invalid_metadata_format":           retry.RefusedClass,
	"invalid_metadata_schema":           retry.RefusedClass,
	"invalid_post_type":                 retry.RefusedClass,
	"metadata_must_be_sent_from_app":    retry.RefusedClass,
	"metadata_too_large":                retry.RefusedClass,
	"missing_file_data":                 retry.RefusedClass,
	"missing_post_type":                 retry.RefusedClass,
	"msg_blocks_too_long":               retry.RefusedClass,
	"msg_too_long":                      retry.RefusedClass,
	"no_text":                           retry.RefusedClass,
	"too_many_attachments":              retry.RefusedClass,
	"too_many_contact_cards":            retry.RefusedClass,
	"unexpected_payload":                retry.RefusedClass,
}

// gone are the errors of an edit after which the message has to be posted anew:
// it was deleted, or Slack does not allow this message to be edited.
var gone = map[string]bool{
	"message_not_found": true, "edit_window_closed": true, "cant_update_message": true, "thread_not_found": true,
	"cannot_edit_streaming_message": true, "update_failed": true,
}

// classify marks an error with its class and says what was attempted.
func classify(operation string, err error) error {
	if err == nil {
		return nil
	}
	wrapped := fmt.Errorf("%s: %w", operation, err)
	answer, ok := answerOf(err)
	if !ok {
		return classifyHTTP(wrapped, err)
	}
	class, known := errorClass[answer]
	switch {
	case class == retry.RefusedClass:
		return retry.Refused(wrapped)
	case known && class == retry.Transient:
		return wrapped
	}
	return retry.Misconfigured(wrapped)
}

// classifyHTTP classifies an answer that is not Slack's own: 4xx other than 408 and
// 429 comes from a proxy or a wrong address; all else may pass.
func classifyHTTP(wrapped, err error) error {
	var status slack.StatusCodeError
	if errors.As(err, &status) && status.Code >= 400 && status.Code < 500 && status.Code != 408 && status.Code != 429 {
		return retry.Misconfigured(wrapped)
	}
	return wrapped
}

// answerOf returns the error word of Slack's answer; false if there was no answer.
func answerOf(err error) (string, bool) {
	var answer slack.SlackErrorResponse
	if errors.As(err, &answer) {
		return answer.Err, true
	}
	return "", false
}

// isGone reports whether an edited message has to be posted anew.
func isGone(err error) bool {
	answer, ok := answerOf(err)
	return ok && gone[answer]
}
