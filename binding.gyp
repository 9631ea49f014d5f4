# For node-gyp and what calls it: one action that runs tools/build.mjs, so that CMakeLists.txt stays the only source list. CMake
# builds in a folder of its own; the action never counts as up to date, since CMake knows better.
{
  'targets': [
    {
      'target_name': 'node_moe',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cmake',
          'inputs': ['CMakeLists.txt'],
          'outputs': ['build-gyp/Release/node_moe.node', '<(PRODUCT_DIR)/always'],
          'action': ['node', 'tools/build.mjs', '--out', 'build-gyp'],
        },
      ],
      'copies': [
        {
          'destination': '<(PRODUCT_DIR)',
          'files': ['build-gyp/Release/node_moe.node'],
        },
      ],
    },
  ],
}
