"use strict";
// As much of a browser's document as page.js asks for. Reads a page as [tag, attributes, children], what to do
// with it, and the script, as JSON; prints what that returns.
const { readFileSync } = require("node:fs");
const { runInThisContext } = require("node:vm");

class Text {
  constructor(text) {
    this.textContent = text;
  }
  get parentElement() {
    return this.parentNode;
  }
}

class Element {
  constructor(tag, attributes = {}, children = []) {
    Object.assign(this, { tag, attributes, childNodes: [], parentNode: null, hidden: false, value: "", heard: {} });
    this.append(...children.map((child) => (typeof child === "string" ? child : new Element(...child))));
  }
  get children() {
    return this.childNodes.filter((node) => node instanceof Element);
  }
  get firstChild() {
    return this.childNodes[0];
  }
  get parentElement() {
    return this.parentNode;
  }
  get textContent() {
    return this.childNodes.map((node) => node.textContent).join("");
  }
  set textContent(text) {
    this.replaceChildren(text);
  }
  get className() {
    return this.attributes.class ?? "";
  }
  set className(name) {
    this.attributes.class = name;
  }
  get title() {
    return this.attributes.title ?? "";
  }
  get dataset() {
    const pairs = Object.entries(this.attributes).filter(([name]) => name.startsWith("data-"));
    return Object.fromEntries(pairs.map(([name, value]) => [name.slice(5), value]));
  }
  get tHead() {
    return this.querySelector("thead");
  }
  get tBodies() {
    return this.querySelectorAll("tbody");
  }
  get rows() {
    return this.querySelectorAll("tr");
  }
  get cells() {
    return this.children;
  }
  append(...nodes) {
    for (let node of nodes) {
      if (typeof node === "string") node = new Text(node);
      if (node.parentNode) node.parentNode.childNodes.splice(node.parentNode.childNodes.indexOf(node), 1);
      node.parentNode = this;
      this.childNodes.push(node);
    }
  }
  replaceChildren(...nodes) {
    this.childNodes = [];
    this.append(...nodes);
  }
  before(node) {
    node.parentNode = this.parentNode;
    this.parentNode.childNodes.splice(this.parentNode.childNodes.indexOf(this), 0, node);
  }
  setAttribute(name, value) {
    this.attributes[name] = String(value);
  }
  getAttribute(name) {
    return this.attributes[name] ?? null;
  }
  removeAttribute(name) {
    delete this.attributes[name];
  }
  addEventListener(kind, hear) {
    (this.heard[kind] ??= []).push(hear);
  }
  tell(kind, event = {}) {
    for (let at = this; at; at = at.parentNode) (at.heard[kind] ?? []).forEach((hear) => hear(event));
  }
  focus() {
    document.activeElement = this;
  }
  scrollIntoView() {
    document.scrolledTo = this.attributes.id;
  }
  contains(node) {
    for (let at = node; at; at = at.parentNode) if (at === this) return true;
    return false;
  }
  is(selector) {
    if (selector === ":target") return this.attributes.id !== undefined && this.attributes.id === document.target;
    const [, tag, name, attribute] = selector.match(/^(\w*)(?:\.([\w-]+))?(?:\[([\w-]+)\])?$/);
    const classes = this.className.split(" ");
    return (!tag || tag === this.tag) && (!name || classes.includes(name)) && (!attribute || attribute in this.attributes);
  }
  closest(selector) {
    for (let at = this; at; at = at.parentNode) if (at.is(selector)) return at;
    return null;
  }
  querySelectorAll(selector) {
    const [last, outer] = selector.split(" ").reverse();
    const every = this.children.flatMap((child) => [child, ...child.querySelectorAll("")]);
    return every.filter((each) => !selector || (each.is(last) && (!outer || each.parentNode.closest(outer))));
  }
  querySelector(selector) {
    return this.querySelectorAll(selector)[0] ?? null;
  }
}

const given = JSON.parse(readFileSync(0, "utf8"));
const root = new Element("", {}, [given.page]);
const createElement = (tag) => new Element(tag);
globalThis.document = Object.assign(root, { createElement, activeElement: null, target: null });
globalThis.window = new Element("window");
globalThis.addEventListener = window.addEventListener.bind(window);
globalThis.Option = class extends Element {
  constructor(text, value = text) {
    super("option", {}, [text]);
    this.value = value;
  }
};
runInThisContext(given.script, "page.js");
console.log(JSON.stringify(runInThisContext(`(() => {${given.todo}})()`, "todo.js")));
