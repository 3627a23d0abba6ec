;; The canary: answers every call with 200 and the call's own body, and imports no host function.
;; `bundle.tar.zst` beside this file holds it compiled; tests/test_canary.py compares the two.
(component
  (import "alga:extension/types" (instance $types
    (type $context-data' (record
      (field "request-id" (option string)) (field "tenant-id" string)
      (field "extension-id" string) (field "install-id" (option string))
      (field "version-id" (option string))))
    (export "context-data" (type $context-data (eq $context-data')))
    (type $header' (record (field "name" string) (field "value" string)))
    (export "http-header" (type $header (eq $header')))
    (type $http' (record
      (field "method" string) (field "url" string) (field "headers" (list $header))
      (field "body" (option (list u8)))))
    (export "http-request" (type $http (eq $http')))
    (type $request' (record (field "context" $context-data) (field "http" $http)))
    (export "execute-request" (type (eq $request')))
    (type $response' (record
      (field "status" u16) (field "headers" (list $header)) (field "body" (option (list u8)))))
    (export "execute-response" (type (eq $response')))))
  (alias export $types "execute-request" (type $request'))
  (import "execute-request" (type $request (eq $request')))
  (alias export $types "execute-response" (type $response'))
  (import "execute-response" (type $response (eq $response')))

  (core module $code
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 1024))

    ;; An instance answers one call, so memory is handed out and never taken back.
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.eq (i32.const -1) (memory.grow
            (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))
          (then unreachable))))
      (local.get $at))

    ;; The request lies in memory: its body, an option of a list, at 76, 80 and 84.
    ;; The response is written to 512: status, no headers, and the same body at 524, 528 and 532.
    (func (export "handler") (param $request i32) (result i32)
      (i32.store16 (i32.const 512) (i32.const 200))
      (memory.copy (i32.const 524) (i32.add (local.get $request) (i32.const 76)) (i32.const 12))
      (i32.const 512)))

  (core instance $main (instantiate $code))
  (func $handler (param "request" $request) (result $response)
    (canon lift (core func $main "handler")
      (memory (core memory $main "memory")) (realloc (core func $main "realloc"))))
  (export "handler" (func $handler)))
