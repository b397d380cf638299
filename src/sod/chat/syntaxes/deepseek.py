"""`<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>` (DeepSeek V3.1), or with a JSON fence (V3, R1)."""

from sod.chat.syntaxes.named_json import NamedJson

DEEPSEEK = NamedJson(
    "deepseek",
    before="(?:<｜tool▁calls▁begin｜>)?<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?",
    between=r"(?:<｜tool▁sep｜>|\n```json\n)",
    after=r"(?:```)?\s*+<｜tool▁call▁end｜>(?:\s*<｜tool▁calls▁end｜>)?",
    example="<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>%s<｜tool▁sep｜>%s<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
)
