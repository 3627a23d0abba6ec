;; The smallest extension there is: a component of the world `runner` (alga.wit), written by hand.
;;
;; It answers 200. A request with a body gets that body back; one without gets the line
;; "METHOD URL". A header of its own, `x-ext-method`, says which method was used.
;;
;; How a call travels (the canonical ABI of the component model):
;;   1. the host asks `realloc` for memory and copies the request there;
;;   2. it calls `handler` with the address of the request record;
;;   3. `handler` answers with the address of a response record;
;;   4. the host copies the response out. The instance is thrown away after the call, so
;;      nothing here ever frees memory.
(component
  ;; The types of the world. An exported function may only use types that have a name
  ;; outside the component, so they are imported from `alga:extension/types`.
  (import "alga:extension/types" (instance $types
    (type $context-data' (record
      (field "request-id" (option string))
      (field "tenant-id" string)
      (field "extension-id" string)
      (field "install-id" (option string))
      (field "version-id" (option string))))
    (export "context-data" (type $context-data (eq $context-data')))
    (type $http-header' (record (field "name" string) (field "value" string)))
    (export "http-header" (type $http-header (eq $http-header')))
    (type $http-request' (record
      (field "method" string)
      (field "url" string)
      (field "headers" (list $http-header))
      (field "body" (option (list u8)))))
    (export "http-request" (type $http-request (eq $http-request')))
    (type $execute-request' (record
      (field "context" $context-data)
      (field "http" $http-request)))
    (export "execute-request" (type (eq $execute-request')))
    (type $execute-response' (record
      (field "status" u16)
      (field "headers" (list $http-header))
      (field "body" (option (list u8)))))
    (export "execute-response" (type (eq $execute-response')))))
  (alias export $types "execute-request" (type $request'))
  (import "execute-request" (type $request (eq $request')))
  (alias export $types "execute-response" (type $response'))
  (import "execute-response" (type $response (eq $response')))

  ;; The code. Addresses below 1024 hold constants and the response; above is the heap.
  (core module $code
    (memory (export "memory") 1)
    (data (i32.const 0) "x-ext-method")
    (data (i32.const 16) "content-type")
    (data (i32.const 32) "text/plain; charset=utf-8")
    (data (i32.const 64) "application/octet-stream")
    (global $top (mut i32) (i32.const 1024))

    ;; realloc(old, old-size, align, size): the same bytes in a block of another size. A
    ;; smaller one stays where it is, a larger or a new one is taken from the top of the heap.
    (func $realloc (export "realloc")
      (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32) (local $short i32)
      (if (i32.le_u (local.get $size) (local.get $old-size)) (then (return (local.get $old))))
      (local.set $at (i32.and
        (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      ;; Grow the memory when the heap has come to its end; trap when that is refused.
      (local.set $short (i32.sub
        (i32.shr_u (i32.add (global.get $top) (i32.const 65535)) (i32.const 16))
        (memory.size)))
      (if (i32.gt_s (local.get $short) (i32.const 0))
        (then (if (i32.eq (memory.grow (local.get $short)) (i32.const -1)) (then unreachable))))
      (memory.copy (local.get $at) (local.get $old) (local.get $old-size))
      (local.get $at))

    ;; header(at, name, name-size, value, value-size): write one http-header record.
    (func $header (param $at i32) (param i32 i32 i32 i32)
      (i32.store (local.get $at) (local.get 1))
      (i32.store offset=4 (local.get $at) (local.get 2))
      (i32.store offset=8 (local.get $at) (local.get 3))
      (i32.store offset=12 (local.get $at) (local.get 4)))

    ;; line(request): the text "METHOD URL\n"; answers its address and size.
    (func $line (param $request i32) (result i32 i32)
      (local $method i32) (local $url i32) (local $size i32) (local $at i32)
      (local.set $method (i32.load offset=56 (local.get $request)))
      (local.set $url (i32.load offset=64 (local.get $request)))
      (local.set $size (i32.add (i32.add (local.get $method) (local.get $url)) (i32.const 2)))
      (local.set $at (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (local.get $size)))
      (memory.copy (local.get $at) (i32.load offset=52 (local.get $request)) (local.get $method))
      (i32.store8 (i32.add (local.get $at) (local.get $method)) (i32.const 32))
      (memory.copy
        (i32.add (i32.add (local.get $at) (local.get $method)) (i32.const 1))
        (i32.load offset=60 (local.get $request))
        (local.get $url))
      (i32.store8
        (i32.add (local.get $at) (i32.sub (local.get $size) (i32.const 1)))
        (i32.const 10))
      (local.get $at) (local.get $size))

    ;; handler(request) -> response. Where the fields are:
    ;;   request   52 method, 60 url, 68 headers, 76 body (76 is there one, 80 address, 84 size)
    ;;   response  512 status, 516 headers, 524 body (likewise); its headers are at 544 and 560
    (func (export "handler") (param $request i32) (result i32)
      (local $at i32) (local $size i32)
      (i32.store16 (i32.const 512) (i32.const 200))
      (i32.store (i32.const 516) (i32.const 544))
      (i32.store (i32.const 520) (i32.const 2))
      (call $header (i32.const 544) (i32.const 0) (i32.const 12)
        (i32.load offset=52 (local.get $request)) (i32.load offset=56 (local.get $request)))
      (if (i32.load8_u offset=76 (local.get $request))
        (then
          (call $header (i32.const 560) (i32.const 16) (i32.const 12) (i32.const 64) (i32.const 24))
          (local.set $at (i32.load offset=80 (local.get $request)))
          (local.set $size (i32.load offset=84 (local.get $request))))
        (else
          (call $header (i32.const 560) (i32.const 16) (i32.const 12) (i32.const 32) (i32.const 25))
          (call $line (local.get $request))
          (local.set $size)
          (local.set $at)))
      (i32.store8 (i32.const 524) (i32.const 1))
      (i32.store (i32.const 528) (local.get $at))
      (i32.store (i32.const 532) (local.get $size))
      (i32.const 512)))

  ;; Lift the code's `handler` to the world's.
  (core instance $main (instantiate $code))
  (func $handler (param "request" $request) (result $response)
    (canon lift (core func $main "handler")
      (memory (core memory $main "memory")) (realloc (core func $main "realloc"))))
  (export "handler" (func $handler)))
