// What a program may name of Node.js, loosely typed: its real types (and the browser's) take seconds to check.
declare var console: any;
declare var process: any;
declare var require: any;
declare var module: any;
declare var exports: any;
declare var Buffer: any;
declare var setTimeout: any;
declare var clearTimeout: any;
declare var setInterval: any;
declare var clearInterval: any;
declare var setImmediate: any;
declare var queueMicrotask: any;
declare var performance: any;
declare module "*";
