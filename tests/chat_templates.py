"""Chat templates as models have them, written down here in the forms that their publishers use, and hostile ones."""

from __future__ import annotations

from collections.abc import Mapping

HONEST: Mapping[str, str] = {
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "brackets": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + (system + '\n' if loop.first and system is defined else '')"
        " + message['content'] | trim + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "headers": (
        "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}{%- else %}{%- set day = '26 Jul 2024' %}"
        "{%- endif %}\n{{- '<|header|>system<|end|>\\n\\nToday: ' + day }}\n"
        "{%- for message in messages %}\n    {{- '<|header|>' + message.role + '<|end|>\\n\\n' + message.content }}\n{%- endfor %}"
    ),
    "tools": (
        "{% if tools %}{{ tools | tojson(indent=4) }}{% endif %}{% if documents %}docs{% endif %}{{ messages | tojson }}"
        "{% for m in messages %}{% if loop.index0 == 3 %}{% break %}{% endif %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ m.role | upper }}{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}\n    {% if m.role == 'assistant' %}\n        {% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}\n    {% else %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}"
    ),
    "macros": (
        "{%- macro said(m, n=0) -%}{{ m.role ~ n }}:{{ m['content'].split('\n')[-1].strip() }};{%- endmacro -%}"
        "{%- set ns = namespace(count=0) -%}{%- for m in messages -%}{%- set ns.count = ns.count + 1 -%}{{ said(m, ns.count) }}"
        "{%- endfor -%}{{ '%s messages' | format(messages | length) }}"
    ),
}

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GIGABYTES = "{{ 'a' * 10**10 }}"
TOO_MUCH = "{% for a in range(99999) %}{{ 'a long text, again and again' }}{% endfor %}"
