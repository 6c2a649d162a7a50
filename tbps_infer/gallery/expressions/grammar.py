"""The grammar of an expression, for lark: what it does not produce does not reach the database."""

__all__ = ["GRAMMAR"]

GRAMMAR = r"""
?any_of: all_of ("or"i all_of)*
?all_of: negation ("and"i negation)*
?negation: condition
    | "not"i negation -> not_

?condition: sum
    | sum COMPARISON sum -> comparison
    | sum "is"i [NOT] "null"i -> is_null
    | sum [NOT] "in"i "(" scalar ("," scalar)* ")" -> member
    | sum [NOT] "between"i sum "and"i sum -> between
    | sum [NOT] "like"i text ["escape"i text] -> like

?sum: product
    | product ((PLUS | MINUS) product)+ -> arithmetic
?product: signed
    | signed ((STAR | SLASH | PERCENT) signed)+ -> arithmetic
?signed: operand
    | MINUS signed -> negative

?operand: "(" any_of ")"
    | scalar_without_sign -> constant
    | NAME -> column
    | QUOTED_NAME -> quoted_column
    | FUNCTION "(" [any_of ("," any_of)*] ")" -> call
    | "cast"i "(" any_of "as"i NAME ")" -> cast

?scalar: scalar_without_sign
    | MINUS number -> negative_number
?scalar_without_sign: text | number
    | "true"i -> true
    | "false"i -> false
text: TEXT
number: NUMBER

COMPARISON: "==" | "=" | "!=" | "<>" | "<=" | "<" | ">=" | ">"
NOT: "not"i
PLUS: "+"
MINUS: /-(?![->])/
STAR: "*"
SLASH: /\/(?!\*)/
PERCENT: "%"
NUMBER: /(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?(?![\w.])/i
TEXT: /'([^']|'')*'/
QUOTED_NAME: /"([^"]|"")*"|`([^`]|``)*`|\[[^\]]*\]/
FUNCTION.1: /(?!(and|or|not|in|between|like|cast)\b)[^\W\d]\w*(?=\s*\()/i
NAME: /(?!x')[^\W\d]\w*/i
%ignore /\s+/
"""
